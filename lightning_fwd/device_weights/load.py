"""What a device learned, into the model that was exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import LightningFwdError
from ..graph.constants import is_inserted
from ..graph.rewritten import RewrittenModel
from ..models.weights import require_finite
from ..plain_files import require_file
from .slots import weights_of
from .table import Stored, Table, digest_of, frozen_names, read_table

Given = str | Path | bytes | bytearray | memoryview | Sequence[Tensor]
_SAME = "give the network with the weights that it was exported with"
_MOST_BYTES = 1 << 30  #: of a dump of Flash


def load_device_weights(model: nn.Module, file: Given, table: str | Path | None = None) -> None:
    """Put what a device learned into a model.

    A batch norm that was folded stays as it is, scale and statistics: the layer's weight and the norm's shift are solved for, so that both
    together give what the folded layer gave on the device. Weights that a mask held at zero come in as zeros, integers as the floats that
    they stand for.

    Args:
        model: the plain network with the weights it was exported with; or ``lf.rewrite(network, rule, example)`` of it, which also takes
            what the rule inserted (heads), and integers to the bit.
        file: what the device gave, a file or the bytes: of ``lfwd_get_weights``, of a slot of ``lfwd_store.h``, or a dump of both slots; or
            the tensors that ``get_weights`` of the program gives on ExecuTorch.
        table: ``weights_table.safetensors``, written by the export, or its folder; None: beside ``file``.

    Raises:
        LightningFwdError: wrong size, damaged, of another model, of another rule or version, not finite, or of a rule whose predictions the
            plain model does not make. The model is unchanged then.
    """
    if table is None:
        if not isinstance(file, str | Path):
            raise LightningFwdError(
                "no weights table is given", "bytes and tensors lie in no folder where one could be", "say which: table='out/'"
            )
        table = Path(file).parent
    known = read_table(table)
    _require_model(model, known)
    stored = _tensors(file, known)
    state = dict(model.state_dict(keep_vars=True)) if not isinstance(model, RewrittenModel) else _in_memory(model)
    changed: dict[str, tuple[Tensor, Tensor]] = {}
    for row in known.tensors:
        if is_inserted(row.model) and not isinstance(model, RewrittenModel):
            continue
        if row.model not in state or not _is_of(row, tuple(state[row.model].shape)):
            has = f"is {tuple(state[row.model].shape)}" if row.model in state else "is missing"
            raise LightningFwdError(f"{row.model} {has} in the model, {row.shape} on the device", "it is another network", _SAME)
        changed[row.model] = state[row.model], _whole(row, state[row.model], _value(row, stored, isinstance(model, RewrittenModel)))
    require_finite({name: value for name, (_, value) in changed.items()}, _name(file))
    with torch.no_grad():
        for place, value in changed.values():
            place.copy_(value)


def _is_of(row: Stored, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this shape has it, or the inputs of it that are stored."""
    if row.index is None:
        return shape == row.shape
    fits = len(shape) == len(row.shape) > 1 and row.index.numel() == row.shape[1] and row.index.dtype == torch.int64
    return fits and shape[:1] + shape[2:] == row.shape[:1] + row.shape[2:] and 0 <= int(row.index.min()) <= int(row.index.max()) < shape[1]


def _whole(row: Stored, present: Tensor, value: Tensor) -> Tensor:
    """The tensor with what is stored of it."""
    return value if row.index is None else present.detach().index_copy(1, row.index, value.to(present.dtype))


def _require_model(model: nn.Module, table: Table) -> None:
    """Refuse another network, another rule, and a plain model that does not predict as the rule does."""
    if isinstance(model, RewrittenModel):
        if repr(model.method) != table.rule:
            raise LightningFwdError(
                f"the model is rewritten for {model.method!r}",
                f"the device runs {table.rule}", "rewrite it for that rule, or give the plain network",
            )  # fmt: skip
    elif any(isinstance(m, RewrittenModel) for m in model.modules()):
        raise LightningFwdError(
            f"a network inside {type(model).__name__} is rewritten",
            "it is not the plain one",
            "give lf.unwrap(module), or that network itself",
        )
    elif not table.own_forward:
        raise LightningFwdError(
            f"the plain {type(model).__name__} does not predict as the device does",
            f"{table.rule} predicts by other means than the network's own forward",
            "give lf.rewrite(network, rule, example) with this rule",
        )
    state = model.state_dict()
    if missing := [name for name in table.frozen if name not in state]:
        raise LightningFwdError(f"{type(model).__name__} has no {', '.join(missing[:4])}", f"{table.network} was exported", _SAME)
    learned = [row.model for row in table.tensors]
    names = set(frozen_names(model, learned))
    if more := sorted(names - set(table.frozen) - set(table.folded)):
        raise LightningFwdError(f"{table.network} was exported without {', '.join(more[:4])}", "it is another network", _SAME)
    if digest_of(model, table.frozen) != table.digest:
        raise LightningFwdError(
            f"{type(model).__name__}: weights that do not learn are not those of the export",
            "what was learned fits the frozen weights beside it and no others",
            _SAME,
        )


def _in_memory(model: RewrittenModel) -> dict[str, Tensor]:
    if callable(prepare := getattr(model.method, "prepare", None)):
        prepare(model)  # inserts what is otherwise made by the first step
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def _tensors(file: Given, table: Table) -> dict[str, Tensor]:
    """What the device gave, by the exporter's names."""
    if isinstance(file, Sequence) and not isinstance(file, str | bytes | bytearray | memoryview):
        given = [(tuple(t.shape), str(t.dtype).removeprefix("torch.")) if isinstance(t, Tensor) else type(t).__name__ for t in file]
        if given != [(row.shape, row.dtype) for row in table.tensors]:
            raise LightningFwdError(
                f"{len(given)} tensors, or other shapes or types, than the {len(table.tensors)} of the export",
                "they are of another program",
                "give all that get_weights returns, in its order",
            )
        return {row.name: value for row, value in zip(table.tensors, file, strict=True)}
    if isinstance(file, str | Path):
        path = require_file(file, "what the device gave", "copy it off the device; docs: tools/lightning_fwd_export")
        if path.stat().st_size > _MOST_BYTES:
            raise LightningFwdError(
                f"{path} has {path.stat().st_size:,} bytes", "that is no Flash of a microcontroller", "cut out the slots"
            )
        content = path.read_bytes()
    elif isinstance(file, bytes | bytearray | memoryview):
        content = bytes(file)
    else:
        raise LightningFwdError(
            f"what the device gave is a {type(file).__name__}", "expected a file, its bytes, or a list of tensors", "give one of these"
        )
    weights = weights_of(content, table.weights_bytes, table.state_bytes, table.model_hash, _name(file))
    found, at = {}, 0
    for row in table.tensors:
        value = (
            torch.frombuffer(bytearray(weights[at : at + row.nbytes]), dtype=getattr(torch, row.dtype)) if row.nbytes else torch.empty(0)
        )
        found[row.name], at = value.reshape(row.shape), at + row.nbytes
    return found


def _value(row: Stored, stored: dict[str, Tensor], rewritten: bool) -> Tensor:
    value = stored[row.name]
    for form in (row.memory, None if rewritten else row.plain):
        if form is not None:
            value = form.plain(value, stored[form.exponents] if form.exponents else None)
    return value


def _name(file: Given) -> str:
    return repr(str(file)) if isinstance(file, str | Path) else "what the device gave"
