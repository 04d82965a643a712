"""What a comparison is: data before and after drift, a model, and the learning rules that adapt it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ..cost.device import load_device
from ..data import DriftDataModule
from ..errors import LightningFwdError
from ..recipes import (
    Training,
    as_plain,
    data_module,
    from_mapping,
    read_recipe,
    require_accelerator,
    require_data,
    require_fit,
    require_keywords,
    require_trained,
    starting_network,
)
from ..settings import check_settings
from .controls import CONTROLS, require_meaning
from .rates import check_rates, read_rates, with_rates
from .row import Row


@dataclass
class Scenario:
    """A comparison of learning rules under one drift, or under several with several numbers of labels.

    Args:
        data: arguments of :class:`lightning_fwd.data.DriftDataModule` (dataset, drift, ...); or with ``module`` the user's own data module,
            by class and arguments or as it is: those of :class:`lightning_fwd.recipes.own_data.OwnData`.
        model, model_args: for :func:`lightning_fwd.models.build`.
        weights: file of trained weights: a checkpoint of Lightning, a saved state_dict, .safetensors, or Keras .npz or .h5;
            ``${LIGHTNING_FWD_DATA}`` may stand in it.
        pretrain: backpropagation on the source, from ``weights`` if there are any; None (in a recipe with ``weights`` the default) takes
            the model as ``weights``, or its own class, give it, and refuses one that does not know the source.
        adapt: training on the target.
        adapt_samples: labelled target samples.
        drifts: several, in place of the data's one; each as text, e.g. ``noise=0.08``.
        labels: several numbers, in place of ``adapt_samples``.
        rates: of stages, chosen before, by number of labels, row and stage, in place of those that the stages say; the nearest number's
            count. In a recipe the name of a JSON file beside it, as ``tools/benchmarks/choose_rates.py`` writes it.
        split: what accuracy is measured on: ``"test"``, or ``"val"`` (held out of training) to choose settings by.
        rows: the rules, beside the controls (none, statistics, head, biases, last block, full backprop).
        controls: whether the controls are run.
        after_statistics: of every row that learns, the controls too: rules and controls then have the same head start.
        seeds: each pretrains, draws its samples and adapts anew.
        device: named device for latency, energy and the verdict; width: of the arithmetic; cost_batch: samples per priced step.
        devices: several, in place of ``device``, which is the first of them.
        accelerator: what trains on this computer, by Lightning's names; ``"auto"`` takes a GPU where there is one. Accuracy is measured on
            the CPU.
    """

    data: dict[str, Any]
    model: str
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    pretrain: Training | None = field(default_factory=Training)
    adapt: Training = field(default_factory=lambda: Training(epochs=10, batch_size=16, lr=0.01))
    adapt_samples: int = 100
    drifts: list[str] | None = None
    labels: list[int] | None = None
    rates: dict[int, dict[str, dict[str, float]]] | None = None
    rows: list[Row] = field(default_factory=list)
    controls: bool = True
    after_statistics: bool = False
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    device: str = "stm32h735"
    devices: list[str] | None = None
    width: Literal["fp32", "int8", "mixed"] = "fp32"
    cost_batch: int = 1
    split: Literal["test", "val"] = "test"
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"

    def __post_init__(self) -> None:
        check_settings(self, LightningFwdError, ("adapt_samples", "cost_batch"))
        for name in ("data", "model_args"):
            require_keywords(getattr(self, name), name)
        self._check_lists()
        for row in self.rows:
            require_meaning(row)
        if self.rates is not None:
            check_rates(self.rates, self.all_rows())
        self.device = self.devices[0] if self.devices else self.device

    def _check_lists(self) -> None:
        for name in ("drifts", "labels", "devices"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise LightningFwdError(f"{name}: {values!r}", "", "give each once, one at least, or leave the key out")
        if self.labels and min(self.labels) < 1:
            raise LightningFwdError(f"labels: {self.labels!r}", "", "give positive numbers")
        if self.drifts and self.data.get("drift") is not None:
            raise LightningFwdError(f"data: drift {self.data['drift']!r} beside drifts", "which one counts?", "write it into drifts")

    def all_devices(self) -> list[str]:
        """Those that rows are priced on."""
        return self.devices or [self.device]

    def all_rows(self) -> list[Row]:
        """Controls first; a row of the recipe with a control's name, which does what the name says, takes its place."""
        own = {row.name: row for row in self.rows}
        controls = [own.pop(c.name, c) for c in CONTROLS] if self.controls else []
        rows = [*(dataclasses.replace(r, control=True) for r in controls), *own.values()]
        if not self.after_statistics:
            return rows
        return [row if row.method in (None, "statistics") else dataclasses.replace(row, after_statistics=True) for row in rows]

    def only(self, names: Sequence[str]) -> Scenario:
        """With the rows of these names, controls among them, alone.

        Raises:
            LightningFwdError: there is no such row.
        """
        rows = {row.name: row for row in self.all_rows()}
        if unknown := [name for name in names if name not in rows]:
            raise LightningFwdError(f"there is no row {unknown[0]!r}", "", f"rows: {', '.join(map(repr, rows))}")
        rates = self.rates and {labels: {name: of[name] for name in of if name in names} for labels, of in self.rates.items()}
        return dataclasses.replace(self, rows=[row for name, row in rows.items() if name in names], controls=False, rates=rates)

    def with_rates(self) -> Scenario:
        """With the rates of the number of labels that it has written into its rows."""
        return dataclasses.replace(self, rows=with_rates(self.rows, self.rates, self.adapt_samples), rates=None)

    def data_module(self, seed: int, view: Literal["source", "target"]) -> DriftDataModule:
        """Source or target view for one seed; the target's training part is the few labelled samples."""
        if view == "source":
            batch = self.pretrain.batch_size if self.pretrain else self.adapt.batch_size
            return data_module(self.data, _INSTEAD, view="source", seed=seed, batch_size=batch)
        more = {"batch_size": self.adapt.batch_size, "train_samples": self.adapt_samples}
        return data_module(self.data, _INSTEAD, view="target", seed=seed, **more)

    def check(self, count: str = "adapt_samples") -> None:
        """Find every mistake that can be found before hours are spent.

        Args:
            count: what the recipe calls the number of labels.

        Raises:
            LightningFwdError: a row's name is taken twice, or its rule or settings, the device, the model, its arguments or weights are
            unknown or do not fit the data, or a model that is not pretrained does not know the source.
            ValueError, FileNotFoundError: the data set or the drift is unknown, does not fit, or has too few samples.
        """
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise LightningFwdError(f"rows have the same name: {sorted({n for n in names if names.count(n) > 1})}", "", "rename one")
        for row in self.all_rows():
            row.build()
        for device in self.all_devices():
            load_device(device)
        require_accelerator(self.accelerator)
        network = starting_network(self)
        source, target = (self.data_module(self.seeds[0], view) for view in ("source", "target"))
        for data in (source, target):
            require_data(data, count)
        require_fit(network, source)
        if self.pretrain is None:
            require_trained(self, network, source, self.split)
        for row in self.rows:
            row.frozen(network)

    def as_yaml(self) -> str:
        plain = dataclasses.replace(self, data=as_plain(self.data))  # asdict would copy the user's data module
        return yaml.safe_dump(dataclasses.asdict(plain), sort_keys=False)


#: Arguments of the data that a scenario says in another place.
_INSTEAD = {
    "train_samples": "the number of labelled samples is the key adapt_samples, or labels",
    "seed": "the seeds are the key seeds",
    "batch_size": "it is a key of pretrain and of adapt",
    "view": "a comparison is about both views, source and target",
}

#: What stands for several of what, and where that one is.
_SEVERAL = (("labels", "adapt_samples"), ("devices", "device"))


def load_scenario(path: str | Path, overrides: dict[str, Any] | None = None) -> Scenario:
    """A scenario from a YAML file, keys checked.

    Args:
        overrides: keys in place of the file's, and of what these exclude: ``labels`` of its ``adapt_samples``, ``drifts`` of the data's
            drift.

    Raises:
        LightningFwdError: the file is missing, is no YAML mapping, or has unknown keys.
    """
    path = Path(path)
    raw = read_recipe(path, "the scenario", "give a YAML file such as recipes/compare_digits_drift.yaml")
    if not isinstance(raw, dict):
        raise LightningFwdError(f"{path} holds {type(raw).__name__}, expected a mapping", "", "see recipes/compare_digits_drift.yaml")
    raw = _overridden(raw, overrides or {})
    for several, one in _SEVERAL:
        same = isinstance(raw.get(several), list) and raw[several][:1] == [raw.get(one)] and one == "device"
        if raw.get(several) is not None and one in raw and not same:
            raise LightningFwdError(f"{path}: {one} beside {several}", "which one counts?", f"write it into {several}")
    if raw.get("weights") is not None:
        raw.setdefault("pretrain", None)
    if not isinstance(raw.get("rows") or [], list):
        raise LightningFwdError(f"{path}: rows is {raw['rows']!r}", "expected a list", "write each row as - {name: ..., method: ...}")
    raw["rows"] = [from_mapping(Row, row, f"{path}: row {i + 1}") for i, row in enumerate(raw.get("rows") or [])]
    if isinstance(raw.get("rates"), str):
        raw["rates"] = read_rates(path.parent / raw["rates"])
    for key in ("pretrain", "adapt"):
        if raw.get(key) is not None:
            raw[key] = from_mapping(Training, raw[key], f"{path}: {key}")
    return from_mapping(Scenario, raw, str(path))


def _overridden(raw: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """With what was said in another place, less what that stands in place of."""
    raw = {key: value for key, value in raw.items() if key not in {one for several, one in _SEVERAL if overrides.get(several)}}
    if overrides.get("drifts") and isinstance(raw.get("data"), dict):
        raw["data"] = {key: value for key, value in raw["data"].items() if key != "drift"}
    return raw | overrides
