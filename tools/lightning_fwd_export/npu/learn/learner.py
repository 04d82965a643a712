"""The loop as a device runs it, with the simulator in the NPU's place."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import numpy as np
from torch import Tensor, nn

from ...errors import ExportError
from ..compile import NpuProgram, compile_network
from ..simulator import Simulator
from ..simulator.memory import Memory
from ..split import RECORDS, SplitProgram, split_records
from ..taps import Tapped, insert_taps
from .affine import F32, Affine
from .head import Head
from .norm import Norm
from .source import source_statistics
from .statistics import Statistics, align, measure

#: number of the input
IMAGE = 0
#: numbers of the outputs; a tap per layer follows
LOGITS, FEATURES, TAPS = 0, 1, 2


class NpuLearner:
    """A compiled network that learns by its records, and a head on the CPU.

    Args:
        net: a classifier, see :func:`.insert_taps`.
        calibration: ``(N, ...)`` inputs of the source domain: they give the ranges of the quantisation.
        accelerator: an Ethos-U55, by Vela's name.

    Attributes:
        program: the compiled network. split: the same with its records in a table.
        table: the records now, as the NPU reads them.
        norms: shifts and scales by layer, where they learn. context: of classes by layer, where they do.
    """

    def __init__(self, net: nn.Module, calibration: Tensor, accelerator: str = "ethos-u55-128"):
        self._normalised = insert_taps(net, calibration[:1])
        self.tapped, self.program = self._compile(net, calibration, accelerator)
        self.split: SplitProgram = split_records(self.program)
        self._check_taps()
        self.regions = self.split.regions()
        self.table: bytearray = self.regions[RECORDS]
        self.simulator = self._simulator()
        self.norms: dict[str, Norm] = {}
        self.context: dict[str, np.ndarray] = {}
        self.affine = {name: Affine.neutral(self.split.read(self.table, name)) for name in self.tapped.layers}

    def _compile(self, net: nn.Module, calibration: Tensor, accelerator: str) -> tuple[Tapped, NpuProgram]:
        batches = [(calibration[k : k + 1],) for k in range(len(calibration))]
        return self._normalised, compile_network(self._normalised.module, batches[0], accelerator, batches)

    def _simulator(self) -> Simulator:
        return Simulator(self.split.binary, self.regions)

    @property
    def norm_modules(self) -> Mapping[str, nn.BatchNorm2d]:
        """The network's batch norms, by the paths of their convolutions."""
        return self._normalised.norms

    @property
    def cycles_per_inference(self) -> int:
        """Of :attr:`simulator`'s command stream, the compiler's estimate."""
        return self.program.cycles

    def state(self) -> tuple[dict, ...]:
        """What was learned, without the head: a copy for :meth:`restore`."""
        return deepcopy((self.affine, self.norms, self.context))

    def restore(self, state: tuple[dict, ...]) -> None:
        """Back to an earlier :meth:`state`, without moments; the records are rewritten. Norms that did not learn then are as trained."""
        affine, norms, context = deepcopy(state)
        self.affine.update(affine)
        for layer in self.norms:
            self.norms[layer] = norms.get(layer) or Norm.of(self.norm_modules[layer])
            self.norms[layer].forget()
        self.context.clear()
        self.context.update(context)
        for layer in self.tapped.layers:
            self.write(layer)

    def store(self, x: Tensor) -> np.ndarray:
        """Inputs ``(N, ...)`` as the NPU takes them: int8, channels last."""
        return self.program.inputs[IMAGE].store((x.permute(0, 2, 3, 1) if x.dim() == 4 else x).contiguous().numpy())

    def run(self, stored: np.ndarray, batch: int = 64) -> list[np.ndarray]:
        """int8 ``(N, ...)`` of every output of the network: logits, features, taps."""
        pieces = [self._forward(stored[k : k + batch])[1] for k in range(0, len(stored), batch)]
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]

    def _forward(self, stored: np.ndarray) -> tuple[Memory, list[np.ndarray]]:
        """A batch through the network: the memory behind it, and logits, features, taps."""
        memory = self.simulator.load({self.program.inputs[IMAGE].slot: stored})
        self.simulator.run(memory)
        outputs = self.program.outputs[: TAPS + len(self.tapped.layers)]
        return memory, [self.simulator.read(memory, output.slot) for output in outputs]

    def measure(self, stored: np.ndarray, layer: str) -> Statistics:
        """A layer's statistics on these inputs: two inferences each."""
        affine, tap = self.affine[layer], TAPS + self.tapped.layers.index(layer)

        def probe(gain: np.ndarray, offset: np.ndarray, start: int, stop: int) -> np.ndarray:
            self.split.write(self.table, layer, affine.records(gain, offset))
            return self.run(stored[start:stop])[tap].astype(np.int64).sum(axis=0)

        found = measure(affine, self.program.layers[layer].convolution.zero_point, probe, len(stored))
        self.write(layer)
        return found

    @property
    def steps(self) -> dict[str, np.float32]:
        """Of every layer's int8 output, real units."""
        return {layer: F32(self.program.outputs[TAPS + k].scale) for k, layer in enumerate(self.tapped.layers)}

    def source_statistics(self, x: Tensor) -> dict[str, Statistics]:
        """What all layers are brought back to, in steps of their int8 outputs: what a device gets with it as constants.

        Args:
            x: ``(N, ...)`` samples of the source domain, see :func:`.source.source_statistics`.
        """
        found, steps = source_statistics(self._normalised, x), self.steps
        return {layer: Statistics(*(F32(values.numpy()) / steps[layer] for values in pair)) for layer, pair in found.items()}

    def adapt_statistics(self, stored: np.ndarray, source: Mapping[str, Statistics]) -> None:
        """Layer by layer from the input on, give every channel the source's mean and spread. Needs no labels.

        Where shifts and scales have learned, mean and spread are those that they have learned to give.
        """
        for layer, step in self.steps.items():
            norm = self.norms.get(layer)
            align(self.affine[layer], self.measure(stored, layer), norm.aim(source[layer], step) if norm else source[layer])
            self.write(layer)

    def features(self, stored: np.ndarray) -> np.ndarray:
        """float32 ``(N, F)``, the input of the head."""
        return self.program.outputs[FEATURES].real(self.run(stored)[FEATURES])

    def logits(self, stored: np.ndarray) -> np.ndarray:
        """float32 ``(N, classes)``, of the head on the NPU."""
        return self.program.outputs[LOGITS].real(self.run(stored)[LOGITS])

    def learn_norms(self) -> dict[str, Norm]:
        """Shifts and scales of all batch norms, as far as they have learned: :attr:`norms`, as trained where there are none yet."""
        self.norms = self.norms or {layer: Norm.of(self.norm_modules[layer]) for layer in self.tapped.layers}
        return self.norms

    def head(self, lr: float, momentum: float, batch: int, steps: int) -> Head:
        """The last layer as it was trained, to learn on the CPU."""
        linear = self.tapped.module.get_submodule(self.tapped.head)
        return Head(linear.weight.detach().numpy(), linear.bias.detach().numpy(), lr, momentum, batch, steps)

    def write(self, layer: str) -> None:
        """Records of a layer's gain and offset."""
        self.split.write(self.table, layer, self.affine[layer].records())

    def _check_taps(self) -> None:
        for layer, output in zip(self.tapped.layers, self.program.outputs[TAPS:], strict=False):
            if output.zero_point != self.program.layers[layer].convolution.zero_point:
                raise ExportError(f"the tap of {layer} is quantised otherwise than its layer", "", "report the network")
