"""What is mutated: per kind of file a good one, and how the library reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from edits import Edit, arrays, change_values, header, resaved
from good_folders import (
    in_folder,
    measurements_file,
    program_file,
    read_back,
    read_folder,
    read_measured,
    read_program,
    read_samples,
    samples_file,
    slots_file,
    weights_table_file,
)
from good_recipes import (
    ADAPTATION,
    SCENARIO,
    SEARCH,
    checkpoint_file,
    device_file,
    fit,
    lightning_recipe,
    read_adaptation,
    read_checkpoint,
    read_device,
    read_scenario,
    read_search,
    scheme_file,
    yaml_file,
)
from good_weights import (
    DATA,
    NET,
    digest,
    keras_h5_file,
    keras_npz_file,
    moments_file,
    pretrained_file,
    read_moments,
    read_weights,
    safetensors_file,
    torch_file,
)
from mutations import edited_text

import lightning_fwd as lf
from lightning_fwd.compare import Scenario
from lightning_fwd.methods.scheme import read_scheme
from lightning_fwd.models import MLP
from lightning_fwd.recipes import pretrained


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        make: writes a good one into a folder and returns its path. read: what the library makes of one, to be compared by ``==``.
        edits: ways of changing it that know its format. sealed: whether it bears a checksum, so that no damage may be read as content.
        rows: whether its content is a collection of rows of which some may be missing: those are measured again.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    edits: tuple[Edit, ...] = ()
    sealed: bool = False
    rows: bool = False

    def covers(self, good: Any, content: Any) -> bool:
        return set(content) <= set(good) if self.rows else content == good

    def names_file(self, said: str, path: Path) -> bool:
        """Whether an error says which file it is about; of a recipe the command line adds it."""
        return path.name in said or path.suffix in (".yaml", ".yml")


KINDS = {kind.name: kind for kind in (
    Kind("checkpoint", checkpoint_file, read_checkpoint, (resaved(change_values),), sealed=True),
    Kind("state_dict", torch_file("w.pt"), read_weights, (resaved(change_values),), sealed=True),
    Kind("legacy_pt", torch_file("w.pt", _use_new_zipfile_serialization=False), read_weights, (resaved(change_values, old_format=True),)),
    Kind("safetensors", safetensors_file, read_weights, (header,)),
    Kind("keras_npz", keras_npz_file, read_weights, (arrays,), sealed=True),
    Kind("keras_h5", keras_h5_file, read_weights),
    Kind("pretrained", pretrained_file, lambda path: digest(pretrained(Scenario(DATA, "mlp", NET), path).state_dict().items()), (header,),
    sealed=True),
    Kind("moments", moments_file, read_moments, (header,), sealed=True),
    Kind("data_npz", samples_file, read_samples, (arrays,), sealed=True),
    Kind("recipe", lightning_recipe, lambda path: fit("-c", str(path), "--trainer.fast_dev_run=1"), (edited_text,) * 3),
    Kind("scenario", yaml_file("compare.yaml", SCENARIO), read_scenario, (edited_text,) * 3),
    Kind("search", yaml_file("search.yaml", SEARCH), read_search, (edited_text,) * 3),
    Kind("adaptation", yaml_file("adapt.yaml", ADAPTATION), read_adaptation, (edited_text,) * 3),
    Kind("scheme", scheme_file, lambda path: (read_scheme(path)[:1], repr(lf.rewrite(
        MLP(**NET).eval(), lf.SparseUpdate(train=str(path)), torch.rand(2, 64)).plan)), (edited_text,) * 3),
    Kind("device", device_file, read_device, (edited_text,) * 3),
    Kind("folder_recipe", in_folder("scenario.yaml"), read_folder, (edited_text,), sealed=True, rows=True),
    Kind("results", in_folder("results.csv"), read_folder, (edited_text,) * 2, sealed=True, rows=True),
    Kind("details", in_folder("details.csv"), read_folder, (edited_text,) * 2, sealed=True, rows=True),
    Kind("measurements", measurements_file, read_measured, (edited_text,), sealed=True, rows=True),
    Kind("weights_table", weights_table_file, read_back, (header,), sealed=True),
    Kind("slots", slots_file, read_back, sealed=True),
    Kind("program", program_file, read_program, sealed=True),
)}  # fmt: skip
