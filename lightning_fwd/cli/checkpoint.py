"""What ``--ckpt_path`` may name: a file of this machine, read as plain values and never as code."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import LightningFwdError
from ..models.weights import read_plain

_MEND = "give a checkpoint that Lightning wrote (ModelCheckpoint, Trainer.save_checkpoint), or leave --ckpt_path out"
#: what a fit goes on from, by the kind that it must be; a checkpoint of the weights alone has none of it
_RESUMED = {"epoch": int, "global_step": int, "loops": Mapping, "callbacks": Mapping, "optimizer_states": list, "lr_schedulers": list}


def refuse_unsafe(path: str | Path | None, weights_only: bool | None) -> None:
    """Refuse, before anything is read, a checkpoint whose reading could execute what it holds.

    Lightning unpickles a remote checkpoint without limits unless told otherwise, and so runs whatever its writer put in.

    Args:
        path: the option ``--ckpt_path``.
        weights_only: the option ``--weights_only``; None where it was not given.

    Raises:
        LightningFwdError: the path is an address (``http://``, ``s3://``, ``file://``, a chain ``a::b``), or weights_only is false.
    """
    if weights_only is False:
        raise LightningFwdError(
            "--weights_only=false is not taken", "a checkpoint read so can execute any code that its writer put in", "leave the option out"
        )
    if path is not None and ("://" in str(path) or "::" in str(path)):
        raise LightningFwdError(
            f"--ckpt_path {path} is not a file of this machine",
            "checkpoints are not read from an address",
            "download the file first and give its path",
        )


def check_readable(path: str | Path, resumed: bool) -> Mapping[str, Any]:
    """Read a local checkpoint once, so that a bad one is told by its name before anything is built.

    Args:
        resumed: whether a fit goes on from it; else its weights are all that is needed.

    Returns:
        what it holds.

    Raises:
        LightningFwdError: the file is damaged, holds more than plain values, or is no such checkpoint of Lightning.
    """
    content = read_plain(path, "the checkpoint", _MEND)
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()):
        had = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise LightningFwdError(
            f"{path} is not a checkpoint of Lightning", f"it has no state_dict of tensors, but {had or 'nothing'}", _MEND
        )
    kinds: dict[str, Any] = {"hyper_parameters": Mapping, "datamodule_hyper_parameters": Mapping, "lightning_fwd": Mapping}
    wrong = [key for key, kind in kinds.items() if not isinstance(content.get(key, {}), kind)]
    wrong += [key for key, kind in _RESUMED.items() if resumed and not isinstance(content.get(key), kind)]
    if resumed and not wrong and not _counts(content["loops"].get("fit_loop")):
        wrong = ["loops"]
    if wrong:
        lacking = [key for key in wrong if key not in content]
        why = f"it lacks {', '.join(lacking)}" if lacking else f"its {', '.join(wrong)} are of another form"
        mend = (
            "resume from a whole checkpoint (save_weights_only=False); weights alone start a comparison or an export" if lacking else _MEND
        )
        raise LightningFwdError(f"{path} is not a checkpoint that a fit can go on from", why, mend)
    return content


def _counts(fit_loop: Any) -> bool:
    """Whether a fit's progress is numbers throughout: Lightning takes it over as it stands, and stumbles over it batches later."""

    def numbers(value: Any) -> bool:
        if isinstance(value, Mapping):
            return all(map(numbers, value.values()))
        return isinstance(value, int) and value >= 0

    if not isinstance(fit_loop, Mapping):
        return False
    stepped = fit_loop.get("epoch_loop.state_dict", {})
    progress = [value for key, value in fit_loop.items() if str(key).endswith("progress")]
    return all(map(numbers, progress)) and isinstance(stepped, Mapping) and isinstance(stepped.get("_batches_that_stepped", 0), int)


def naming_file(path: str | Path, error: LightningFwdError, cause: BaseException) -> LightningFwdError:
    """An error about "the checkpoint", or one that its content has caused, that says which file it is."""
    if str(path) in str(error) or not ("the checkpoint" in str(error) or while_restoring(cause)):
        return error
    return type(error)(f"{path}: {error.what}", error.why, error.mend)


def require_rule(path: str | Path, content: Mapping[str, Any], strategy: Any, arguments: Sequence[str], command: str) -> None:
    """Refuse a checkpoint that a rule wrote where no strategy is named: it would be read as the plain network's, without what the rule
    inserted.

    Args:
        strategy: of the run. arguments: of the command line; a strategy that is named there, plain ones too, is what the user wants.

    Raises:
        LightningFwdError: naming the rule.
    """
    rule = content.get("lightning_fwd", {}).get("method")
    if rule is None or strategy != "auto" or any(argument.startswith("--trainer.strategy") for argument in arguments):
        return
    raise LightningFwdError(
        f"{path} was written by {rule}, and no strategy is named",
        "what the rule inserted, and predicts by, would be left out",
        f"give its recipe (lightning-fwd {command} -c RECIPE --ckpt_path ...) or its rule (--trainer.strategy=NAME); "
        "--trainer.strategy=auto takes its plain weights",
    )


def while_restoring(error: BaseException) -> bool:
    """Whether an exception came out of Lightning's reading of a checkpoint, or of the settings that it takes from one: then the file is at
    fault, or does not belong to this run."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(f.filename).name == "checkpoint_connector.py" or f.name == "_parse_ckpt_path" for f in frames)


def unfit(path: str | Path, error: BaseException, command: str) -> LightningFwdError:
    """What to tell the user of a checkpoint that Lightning could not restore."""
    said = " ".join(str(error).split()) or type(error).__name__
    mend = f"give the recipe and the strategy that wrote it: lightning-fwd {command} -c RECIPE --ckpt_path {path}"
    if "Error(s) in loading state_dict" in said:
        return LightningFwdError(f"{path} does not belong to this model", said.partition(":")[2].strip()[:600], mend)
    return LightningFwdError(f"{path} cannot be restored", f"{type(error).__name__}: {said[:300]}", mend)
