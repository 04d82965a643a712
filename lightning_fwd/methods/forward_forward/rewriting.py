"""What Forward-Forward asks of a model, and how the label enters it."""

from __future__ import annotations

import math

import torch

from ...errors import RewriteError
from ...graph.blocks import Block, layer_of, parameters_of, shape_of
from ...graph.programs import BlockRunner
from ...graph.rewritten import RewrittenModel
from ...passes import insert_label_embedding
from ...passes.insert_label_planes import insert_label_context, insert_label_planes
from ...passes.pass_relu_gradient import pass_relu_gradient
from .goodness import PassThroughReLU
from .label_embedding import LabelOverlay, LabelPattern, LabelPlanes, repeat_samples


def check_model(model: RewrittenModel, negatives: str, prediction: str) -> None:
    name = type(model.original).__name__
    if len(model.plan) < 2:
        raise RewriteError(
            f"ForwardForward needs a hidden block, {name} has one block",
            "the last block is the readout",
            "use a finer granularity",
        )
    if not model.example_input.is_floating_point():
        raise RewriteError(
            f"ForwardForward cannot make negative samples of {model.example_input.dtype}",
            "a label written over indices (of tokens, say) makes other indices",
            "rewrite the part of the model behind the embedding, or use local_loss",
        )
    if model.num_classes < 2 and negatives != "hybrid":
        raise RewriteError(
            f"ForwardForward needs two classes, {name} has {model.num_classes}",
            "a negative sample carries a wrong label, and there is none",
            "use ForwardForward(negatives='hybrid', head='own')",
        )
    if negatives == "hybrid" and math.prod(model.input_shape[1:] or model.input_shape) < 2:
        raise RewriteError(
            f"ForwardForward(negatives='hybrid') cannot mix samples of shape {model.input_shape}",
            "a mask over the positions mixes two samples, and they have one position",
            "flatten the input, or use negatives='wrong'",
        )
    if negatives == "hybrid" and prediction == "goodness":
        raise RewriteError(
            "ForwardForward(negatives='hybrid', prediction='goodness') cannot predict",
            "no label enters the blocks, so their goodness tells nothing about classes",
            "use prediction='head'",
        )


def insert_label(model: RewrittenModel, kind: str, scale: float, seed: int) -> None:
    shape, classes = model.input_shape, model.num_classes
    if kind == "auto":
        kind = "overlay" if math.prod(shape) > classes and sees_the_whole_input(model) else "planes"
    if kind in ("planes", "context"):
        insert = insert_label_context if kind == "context" else insert_label_planes
        insert(model, lambda n, last: LabelPlanes(n, classes, scale, seed, last), repeat_samples)
    else:
        embedding = {"overlay": LabelOverlay, "pattern": LabelPattern}[kind]
        insert_label_embedding(model, embedding(shape, classes, scale))
    check_label_arrives(model)


def sees_the_whole_input(model: RewrittenModel) -> bool:
    """Whether the first values of a sample reach all that the first layer gives: fully connected, not over tokens, or recurrent."""
    first = next(n for n in model.graph.nodes if layer_of(n, model))
    shape, weights = shape_of(first), parameters_of(first, model).values()
    return (shape is None or len(shape) == 2) and all(w.ndim <= 2 for w in weights)


def check_label_arrives(model: RewrittenModel) -> None:
    x, classes = model.example_input[:2], model.num_classes
    with model.in_mode(training=False), torch.no_grad():
        h = BlockRunner(model, model.plan[0])(model, x, torch.eye(classes).to(x).repeat_interleave(len(x), 0))[0]
    rounding = torch.finfo(h.dtype).eps  # in half precision a faint label may be below it
    same = (h - h[: len(x)].repeat(classes, *[1] * (h.ndim - 1))).abs().max() <= 32 * rounding * h.abs().max()
    if rounding < 1e-5 and same and h.any():
        raise RewriteError(
            f"ForwardForward's label does not reach the activity of the first block, {model.plan[0].name}",
            "something there takes it out, as a norm of each channel by itself does with what is the same at all positions",
            "use label='pattern' or 'overlay', or another norm",
        )


def pass_through(model: RewrittenModel, hidden: list[Block]) -> None:
    if without := pass_relu_gradient(model, PassThroughReLU(), hidden):
        raise RewriteError(
            f"ForwardForward(pass_through_relu=True) finds no ReLU at the end of {', '.join(without)}",
            "it is the last ReLU of a block that passes its gradient whole (pooling, dropout and reshaping may follow it)",
            "leave it at False, or end each hidden block in a ReLU",
        )
