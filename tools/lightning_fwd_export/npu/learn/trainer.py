"""Biases and scales learn from labels: the way back of the error is the second half of the inference."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..backward import WithBackward, insert_backward
from ..compile import NpuProgram, compile_network
from ..halves import cut_before
from ..simulator import Simulator
from ..simulator.memory import Memory
from ..taps import Tapped
from .affine import F32, Affine
from .head import Head, softmax
from .learner import FEATURES, LOGITS, TAPS, NpuLearner

#: number of the second input
ERROR = 1


class NpuTrainer(NpuLearner):
    """A compiled network with the way back, of which every batch norm's shift and scale learn, and the head.

    It is what sparse update with ``train="norms"`` and the head does, on an NPU: stochastic gradient descent with momentum. The parameters
    are the batch norms'; what is rewritten are the records that realise them.

    The NPU's gradients are integers that lose what rounds to nothing on the way. What a layer loses on average is measured once, on the
    source's samples, and put back by one factor per layer.

    Args:
        net, calibration, accelerator: see :class:`NpuLearner`.

    Attributes:
        back: the network with its way back. second_half: what runs it, on the memory that :attr:`simulator` left.
        factors: by layer: what the sums of bias and scale are to be multiplied by.
    """

    def _compile(self, net: nn.Module, calibration: Tensor, accelerator: str) -> tuple[Tapped, NpuProgram]:
        self.back: WithBackward = insert_backward(net, calibration[:1])
        self._calibration = calibration, _errors(self.back, calibration)
        batches = [(image[None], error[None]) for image, error in zip(*self._calibration, strict=True)]
        with self.back.distinct():
            return self.back.tapped, compile_network(self.back.module, batches[0], accelerator, batches)

    def __init__(self, net: nn.Module, calibration: Tensor, accelerator: str = "ethos-u55-128"):
        super().__init__(net, calibration, accelerator)
        self.learn_norms()
        self._gains = {layer: self._neutral_gain(path) for layer, path in self.back.gains.items()}
        for layer in self.tapped.layers:
            self.write(layer)
        self.factors = self._measure_factors()

    def _simulator(self) -> Simulator:
        error, early = self.program.inputs[ERROR].slot, range(TAPS + len(self.tapped.layers))
        first, second = cut_before(self.split.binary, error, tuple(self.program.outputs[k].slot for k in early))
        self.second_half = Simulator(second, self.regions)
        return Simulator(first, self.regions)

    @property
    def cycles_per_inference(self) -> int:
        return self.program.cycles_before(ERROR)

    def sums(self, stored: np.ndarray, errors: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Of every layer: sums over positions of the error, and of error times output, float32 ``(B, C)`` each, as the NPU gives them.

        Args:
            errors: ``(B, F)``, the loss's gradient at the features.
        """
        memory, _ = self._forward(stored)
        return self._backward(memory, errors)

    def _backward(self, memory: Memory, errors: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Every sample's error is scaled to the whole range of int8, and its gradients are scaled back."""
        largest = np.maximum(np.abs(errors).max(axis=1, keepdims=True), F32(1e-30))
        error = self.program.inputs[ERROR]
        self.second_half.write(memory, error.slot, error.store(errors / largest))
        self.second_half.run(memory)
        layers = self.tapped.layers
        outputs = self.program.outputs[TAPS + len(layers) :]
        real = [output.real(self.second_half.read(memory, output.slot)) * largest for output in outputs]
        return {layer: (real[k], real[len(layers) + k]) for k, layer in enumerate(layers)}

    def write(self, layer: str) -> None:
        """Records of a layer, and those by which the error that goes further down is multiplied by the layer's gain."""
        super().write(layer)
        if layer in self._gains:
            self.split.write(self.table, self.back.gains[layer], self._gains[layer].records(gain=self.affine[layer].gain))

    def _neutral_gain(self, path: str) -> Affine:
        """Of a gain on the way back, as if it were compiled with weights of exactly 1."""
        affine = Affine.neutral(self.split.read(self.table, path))
        weight = F32(self.back.compiled_weight(path))
        affine.scale = affine.scale / weight
        if weight != 1:
            affine.compiled = ()
        return affine

    @torch.no_grad()
    def _measure_factors(self) -> dict[str, tuple[np.float32, np.float32]]:
        """What brings the NPU's sums closest to those of the float network, layer by layer, over the samples of the calibration."""
        images, errors = self._calibration
        found = self.sums(self.store(images), F32(errors.flatten(1).numpy()))
        exact = self.back.module(images, errors)[TAPS + len(self.tapped.layers) :]
        factors = {}
        for k, layer in enumerate(self.tapped.layers):
            pair = zip(found[layer], exact[k :: len(self.tapped.layers)], strict=True)
            factors[layer] = tuple(F32(_closest(got, want.numpy() / self.back.window)) for got, want in pair)
        return factors

    def step(self, head: Head, stored: np.ndarray, labels: np.ndarray) -> None:
        """One batch, of the size that the head was made for: head, shifts and scales take one step, records follow.

        Args:
            head: with its rate, momentum and number of steps.
            stored: int8 ``(B, ...)``, see :meth:`store`. labels: class numbers.
        """
        memory, outputs = self._forward(stored)
        features = self.program.outputs[FEATURES].real(outputs[FEATURES])
        error = softmax(head.logits(features))
        error[np.arange(len(labels)), labels] -= F32(1)
        rate, momentum = head.rate, head.momentum
        products = error[:, :, None] * head.weight
        gradients = self._backward(memory, np.add.accumulate(products, axis=1, dtype=F32)[:, -1])
        head.step(features, labels)
        for layer in self.tapped.layers:
            sums = (np.add.accumulate(g, axis=0, dtype=F32)[-1] / F32(len(labels)) for g in gradients[layer])
            self._update(layer, *sums, rate, momentum)

    def _update(self, layer: str, bias_sum: np.ndarray, scale_sum: np.ndarray, rate: np.float32, momentum: np.float32) -> None:
        norm, affine, (of_bias, of_scale) = self.norms[layer], self.affine[layer], self.factors[layer]
        bias_sum, scale_sum = bias_sum * of_bias, scale_sum * of_scale
        old_shift, old_scale = norm.shift, norm.scale
        # an output is scale * normalised + shift: the sum of error times normalised follows from the two
        norm.shift_moment = momentum * norm.shift_moment + bias_sum
        norm.scale_moment = momentum * norm.scale_moment + (scale_sum - old_shift * bias_sum) / old_scale
        norm.move(affine, self.steps[layer], old_shift - rate * norm.shift_moment, old_scale - rate * norm.scale_moment)
        self.write(layer)


def _closest(got: np.ndarray, want: np.ndarray) -> float:
    """The factor that brings ``got`` closest to ``want``."""
    got, want = got.astype(np.float64), want.astype(np.float64)
    return float((got * want).sum() / max((got * got).sum(), 1e-30))


@torch.no_grad()
def _errors(back: WithBackward, images: Tensor) -> Tensor:
    """Errors ``(N, F, 1, 1)`` as they occur, for the ranges of the quantisation: the labels are the network's own for every other sample,
    drawn for the rest; each is scaled to a largest entry of 1."""
    head = back.module.get_submodule(back.tapped.head)
    logits = back.module(images, torch.zeros(len(images), head.in_features, 1, 1))[LOGITS]
    labels = torch.randint(head.out_features, (len(images),), generator=torch.Generator().manual_seed(0))
    labels[::2] = logits.argmax(1)[::2]
    error = (logits.softmax(1) - nn.functional.one_hot(labels, head.out_features)) @ head.weight
    return (error / error.abs().amax(1, keepdim=True).clamp(min=1e-30))[:, :, None, None]
