"""What the program's weights are called and mean, written beside it: the way back, ``lf.load_device_weights``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from lightning_fwd.device_weights.table import Stored, Table, digest_of, frozen_names, write_table
from lightning_fwd.graph.modes import kept_modes
from lightning_fwd.graph.rewritten import RewrittenModel
from lightning_fwd.graph.stored_as import StoredAs, stored_as
from lightning_fwd.integer import IntegerRule

from .c_code.writer import Written
from .program import StepProgram
from .pte import Program

_DTYPES = {"float": "float32", "int8_t": "int8", "uint8_t": "uint8", "int16_t": "int16", "int32_t": "int32", "int64_t": "int64"}


def own_names(model: RewrittenModel, memory: Mapping[str, StoredAs] | None = None) -> dict[str, str]:
    """The names under which transformed tensors are given out, by the model's own names.

    Args:
        memory: what stands for the tensors of the rewritten model (integers).
    """
    return {name: form.name for name, form in (stored_as(model) | dict(memory or {})).items()}


def write_weights_table(
    out: Path, model: RewrittenModel, program: StepProgram, checked: Program, written: Written, memory: Mapping[str, StoredAs] | None = None
) -> None:
    """Write ``weights_table.safetensors`` for what a program's ``get_weights`` gives.

    Raises:
        LightningFwdError: it cannot be written.
    """
    plain, memory = stored_as(model), memory or {}
    tensors = tuple(
        Stored(given_out, name, _DTYPES[t.ctype], t.shape, memory.get(name), plain.get(name))
        for given_out, name, t in zip(program.weights, program.learned, checked.methods["get_weights"].outputs, strict=True)
    )
    frozen = frozen_names(model, {*program.learned, *plain})
    rule = model.method.method if isinstance(model.method, IntegerRule) else model.method
    with torch.no_grad(), kept_modes(model):
        model.eval()
        own_forward = torch.equal(rule.predict(model, model.example_input), model.run(model.example_input))
    table = Table(
        repr(model.method), type(model.original).__name__, written.model_hash, written.state_bytes, own_forward, tensors, frozen,
        digest_of(model, frozen), tuple(name for name in plain if name not in program.learned),
    )  # fmt: skip
    write_table(table, out)
