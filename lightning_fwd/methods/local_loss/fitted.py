"""Heads fitted to the source before the device leaves the house, in a small file that ships with the weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...errors import LightningFwdError, RewriteError
from ...graph.rewritten import RewrittenModel
from ...models.sealed_weights import load_sealed, save_sealed
from ..base import LearningMethod
from ..calibrate import calibrate

SAMPLES = 5000  #: of the source that heads are fitted to
_MEND = "fit them anew: heads='source' in a stage of lf.adapt or of a recipe, or lf.LocalLoss(...).prepared(net, source, FILE)"


def fit_heads(net: nn.Module, rule: LearningMethod, source: Any, file: Path) -> str:
    """Fit the rule's heads by ridge regression on a copy of a network (:func:`lightning_fwd.methods.calibrate.calibrate`), and write them.

    Args:
        rule: its heads as drawn. source: batches ``(x, y)``, or a LightningDataModule.

    Returns:
        the file's name.
    """
    if hasattr(source, "train_dataloader"):
        source.prepare_data()
        source.setup("fit")
        source = source.train_dataloader()
    batches = _first(source, SAMPLES)
    x, y = next(batches)
    model = RewrittenModel(copy.deepcopy(net).eval(), rule, x[:2], rule.granularity)
    rule.rewrite(model)
    model.compile_blocks()
    calibrate(model, (b for part in ([(x, y)], batches) for b in part))
    save_sealed(model.inserted.heads.state_dict(), file, model=type(net).__name__)
    return str(file)


def load_heads(model: RewrittenModel, file: str) -> None:
    """Give a rewritten model the heads of a file.

    Raises:
        RewriteError: the file cannot be read, or its heads are another model's.
    """
    try:
        stored = load_sealed(file, "the heads", _MEND)
    except LightningFwdError as error:
        raise RewriteError(error.what, error.why, error.mend) from error
    wanted = model.inserted.heads.state_dict()
    shapes = ({name: tuple(value.shape) for name, value in state.items()} for state in (stored, wanted))
    found, needed = (set(s.items()) for s in shapes)
    if found != needed:
        name, shape = sorted(found ^ needed)[0]
        raise RewriteError(
            f"{file}: {name} has shape {shape}" if (name, shape) in found else f"{file} holds no {name} of shape {shape}",
            "the heads are those of another network, or of other settings",
            _MEND,
        )
    model.inserted.heads.load_state_dict(stored)


def _first(batches: Any, samples: int) -> Iterator[tuple[Tensor, Tensor]]:
    seen = 0
    for x, y in batches:
        if seen >= samples:
            return
        yield x[: samples - seen], y[: samples - seen]
        seen += len(x)
