"""Options that several commands share, and what they name: the network, its example input, the learning rule."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable

from ..errors import LightningFwdError

NAMES = "What has a name (devices, drifts, methods with their settings, models, data): lightning-fwd list TOPIC"


def add_model_options(parser: argparse.ArgumentParser, method: bool = True, required: bool = True) -> None:
    """``--model`` and what belongs to it.

    Args:
        method: also the learning rule and its settings.
        required: whether the command cannot do without a model.
    """
    parser.add_argument("--model", required=required, help="a known network (resnet8, ds_cnn, mlp, ...) or package.module.Class")
    parser.epilog = NAMES
    if method:
        parser.add_argument("--method", default="backprop", help="learning rule")
        parser.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the rule, e.g. --set train=biases"
        )
    parser.add_argument("--model-args", type=settings, default={}, metavar="KEY=VALUE,...", help="arguments of the model's class")
    parser.add_argument(
        "--input-shape",
        type=shape,
        help="of one sample, e.g. 3,32,32; by default the model's own",
    )


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """How many trials run at a time, and where."""
    parser.add_argument("--jobs", type=int, help="worker processes (default: one per core; on a cluster, all workers)")
    parser.add_argument("--backend", choices=("loky", "dask", "ray"), default="loky", help="where trials run: this machine, or a cluster")
    parser.add_argument("--address", help="of the cluster's scheduler, e.g. tcp://HOST:8786; all machines see --out under the same path")


def build_model(options: argparse.Namespace, batch: int = 1, data_shape: Callable[[], tuple[int, ...] | None] = lambda: None):
    """The network that ``--model`` names, and an example input ``(batch, ...)``: of ``--input-shape``, the model's own, else
    ``data_shape()``."""
    import torch

    from ..models import build

    net = build(options.model, **options.model_args)
    sizes = options.input_shape or getattr(net, "input_shape", None) or data_shape()
    if sizes is None:
        raise LightningFwdError(
            f"{options.model} does not tell the shape of its input",
            "",
            "give --input-shape, e.g. --input-shape 3,32,32",
        )
    return net, torch.zeros(batch, *sizes)


def build_method(options: argparse.Namespace):
    """The learning rule that ``--method`` and ``--set`` name."""
    from ..methods import get_method

    return get_method(options.method, **{k: v for item in options.set for k, v in settings(item).items()})


def shape(text: str) -> tuple[int, ...]:
    """``"3,32,32"`` as sizes (an argparse type)."""
    try:
        return tuple(positive(size) for size in text.split(","))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape; write sizes with commas between, e.g. 3,32,32") from None


def positive(text: str) -> int:
    """A whole number above 0 (an argparse type)."""
    if not (text.strip().isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def settings(text: str) -> dict[str, object]:
    """``"a=1,b=relu"`` as a dict; values are Python literals, else text."""
    found: dict[str, object] = {}
    for item in _split_outside_brackets(text):
        key, equals, value = item.partition("=")
        if not equals:
            raise LightningFwdError(f"{item!r} is not KEY=VALUE", "", "write e.g. train=biases")
        try:
            found[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key.strip()] = value
    return found


def _split_outside_brackets(text: str) -> list[str]:
    items, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    return items
