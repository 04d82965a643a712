"""What a comparison is: data before and after drift, a model, and the learning rules that adapt it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import nn

from ..adaptation import Stage, as_stages
from ..cost.device import load_device
from ..data import DriftDataModule
from ..errors import LightningFwdError
from ..methods import LearningMethod, get_method
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


@dataclass
class Row:
    """One line of the table: how the model adapts.

    Args:
        name: what the table calls it.
        method: registered name of the rule; None leaves the model as it is.
        settings: the rule's arguments.
        lr, epochs: in place of the scenario's.
        after_statistics: recompute the batch-norm statistics on the same samples first; short for a first stage "statistics" that nothing
            guards.
        stages: in place of method, settings, lr and epochs: a guarded adaptation, each stage as :class:`lightning_fwd.adaptation.Stage`
            takes it.
        freeze: module paths whose parameters stay as they are, e.g. a stem that reads raw pixels and bears smaller steps than the rest.
        calibrate: fit the rule's inserted heads to the source first, in closed form, as one would before the device leaves the house.
        control: whether it is a control (drawn grey).
    """

    name: str
    method: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    lr: float | None = None
    epochs: int | None = None
    after_statistics: bool = False
    stages: list[dict[str, Any]] = field(default_factory=list)
    freeze: list[str] = field(default_factory=list)
    calibrate: bool = False
    control: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.freeze, list) or not all(isinstance(path, str) for path in self.freeze):
            raise LightningFwdError(
                f"row {self.name!r}: freeze is {self.freeze!r}", "expected paths of modules", "write e.g. freeze: [stem]"
            )
        check_settings(self, LightningFwdError, ("lr", "epochs"))
        own = [k for k in ("method", "settings", "lr", "epochs", "after_statistics", "freeze", "calibrate") if getattr(self, k)]
        if self.stages and own:
            raise LightningFwdError(
                f"row {self.name!r}: {', '.join(own)} beside stages",
                "each stage says its own rule, rate and what it freezes",
                "write them in the stages; recomputed statistics are a stage: {method: statistics}",
            )
        self.adaptation()
        require_keywords(self.settings, f"row {self.name!r}: settings")

    def adaptation(self) -> list[Stage]:
        """Its stages, built; none where it is a single rule.

        Raises:
            LightningFwdError: one of them is unknown or has settings that it cannot use.
        """
        try:
            return as_stages(self.stages) if self.stages else []
        except LightningFwdError as error:
            raise LightningFwdError(f"row {self.name!r}: {error.what}", error.why, error.mend) from error

    def build(self, seed: int | None = None) -> LearningMethod | None:
        """The learning rule, or None.

        Args:
            seed: of the rule, where it has one and the settings do not set it.

        Raises:
            LightningFwdError: unknown name or settings.
        """
        if self.method is None:
            return None
        try:
            method = get_method(self.method, **self.settings)
        except LightningFwdError as error:
            raise LightningFwdError(f"row {self.name!r}: {error.what}", error.why, error.mend) from error
        if seed is not None and "seed" not in self.settings and hasattr(method, "seed"):
            method = dataclasses.replace(method, seed=seed)
        if self.calibrate and self.after_statistics and method.batch_norm == "fold":
            raise LightningFwdError(
                f"row {self.name!r}: calibrate with after_statistics and batch_norm='fold'",
                "heads are fitted before the target's statistics are known, and a folded norm has none left to replace",
                "use batch_norm='freeze', or leave one of them out",
            )
        return method

    def frozen(self, net: nn.Module) -> nn.Module:
        """``net`` itself, what ``freeze`` names frozen.

        Raises:
            LightningFwdError: it names no module with parameters.
        """
        for path in self.freeze:
            held = dict(net.named_modules()).get(path)
            if held is None or not any(True for _ in held.parameters()):
                known = ", ".join(name for name, child in net.named_children() if any(True for _ in child.parameters()))
                raise LightningFwdError(
                    f"row {self.name!r}: freeze: {path!r} is no module with parameters", "", f"the network has: {known}"
                )
            held.requires_grad_(False)
        return net


CONTROLS = (
    Row("none", control=True),
    Row("statistics", "statistics", epochs=1, control=True),
    Row("head", "sparse_update", {"train": "head"}, control=True),
    Row("biases", "sparse_update", {"train": "biases"}, control=True),
    Row("last block", "sparse_update", {"train": 2}, control=True),
    Row("backprop", "backprop", {"batch_norm": "freeze"}, control=True),
)


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
        """Controls first; a row of the recipe with a control's name takes its place."""
        own = {row.name: row for row in self.rows}
        controls = [own.pop(c.name, c) for c in CONTROLS] if self.controls else []
        rows = [*(dataclasses.replace(r, control=True) for r in controls), *own.values()]
        if not self.after_statistics:
            return rows
        return [row if row.method in (None, "statistics") else dataclasses.replace(row, after_statistics=True) for row in rows]

    def data_module(self, seed: int, view: Literal["source", "target"]) -> DriftDataModule:
        """Source or target view for one seed; the target's training part is the few labelled samples."""
        if view == "source":
            batch = self.pretrain.batch_size if self.pretrain else self.adapt.batch_size
            return data_module(self.data, view="source", seed=seed, batch_size=batch)
        return data_module(self.data, view="target", seed=seed, batch_size=self.adapt.batch_size, train_samples=self.adapt_samples)

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
        if not self.seeds:
            raise LightningFwdError("seeds is empty", "", "give at least one seed")
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


def load_scenario(path: str | Path, overrides: dict[str, Any] | None = None) -> Scenario:
    """A scenario from a YAML file, keys checked.

    Raises:
        LightningFwdError: the file is missing, is no YAML mapping, or has unknown keys.
    """
    path = Path(path)
    raw = read_recipe(path, "the scenario", "give a YAML file such as recipes/compare_digits_drift.yaml")
    if not isinstance(raw, dict):
        raise LightningFwdError(f"{path} holds {type(raw).__name__}, expected a mapping", "", "see recipes/compare_digits_drift.yaml")
    raw = {**raw, **(overrides or {})}
    for several, one in (("labels", "adapt_samples"), ("devices", "device")):
        same = isinstance(raw.get(several), list) and raw[several][:1] == [raw.get(one)] and one == "device"
        if raw.get(several) is not None and one in raw and not same:
            raise LightningFwdError(f"{path}: {one} beside {several}", "which one counts?", f"write it into {several}")
    if raw.get("weights") is not None:
        raw.setdefault("pretrain", None)
    if not isinstance(raw.get("rows") or [], list):
        raise LightningFwdError(f"{path}: rows is {raw['rows']!r}", "expected a list", "write each row as - {name: ..., method: ...}")
    raw["rows"] = [from_mapping(Row, row, f"{path}: row {i + 1}") for i, row in enumerate(raw.get("rows") or [])]
    for key in ("pretrain", "adapt"):
        if raw.get(key) is not None:
            raw[key] = from_mapping(Training, raw[key], f"{path}: {key}")
    return from_mapping(Scenario, raw, str(path))
