"""One stage of an adaptation: a learning rule, and how it is trained."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import LightningFwdError
from ..methods import METHODS, LearningMethod, get_method
from ..passes import map_input, widen_head
from ..settings import check_settings


@dataclass
class Stage:
    """A learning rule on its turn. SGD, the loss is the cross-entropy.

    Args:
        method: a rule or its registered name. settings: of a rule given by name.
        choose: settings that are tried one after the other in the place of those given, each a mapping; the best on the samples that judge
            is taken. By default what the rule itself leaves open.
        lr: of the optimizer; of several the one that is best on the samples held back is taken.
        epochs: passes over the labelled samples; None: 5, and of a rule that needs no labels one, or as many as it asks for.
        steps: of a rule that learns from labels: at least so many of the optimizer's. Where labels are few, epochs grow until all of them
            give so many.
        batch_size, momentum, schedule: as usual.
        head: ``"blocks"`` puts a head over all blocks in the place of the network's own first, see :func:`lightning_fwd.widen_head`.
        input: ``"mapped"`` puts a linear map of the features in front of the network first, see :func:`lightning_fwd.map_input`.
        freeze: paths of modules whose parameters stay as they are.
        name: what reports call it; by default the rule's name.
    """

    method: LearningMethod | str
    settings: dict[str, Any] = field(default_factory=dict)
    choose: Sequence[dict[str, Any]] = ()
    lr: float | Sequence[float] = 0.01
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 16
    momentum: float = 0.9
    schedule: Literal["constant", "cosine"] = "cosine"
    head: Literal["own", "blocks"] = "own"
    input: Literal["own", "mapped"] = "own"
    freeze: Sequence[str] = ()
    name: str = ""

    def __post_init__(self) -> None:
        check_settings(self, LightningFwdError, ("epochs", "steps", "batch_size"), ("momentum",))
        if not isinstance(self.settings, dict) or (self.settings and not isinstance(self.method, str)):
            raise LightningFwdError(
                f"stage {self.name or self.method}: settings={self.settings!r}",
                "settings are a mapping, of a rule that is given by its name",
                "write e.g. settings: {train: head}",
            )
        self.method = get_method(self.method, **self.settings)
        self.settings = {}
        self.name = self.name or next((n for n, kind in METHODS.items() if type(self.method) is kind), type(self.method).__name__)
        self._check_choose()
        rates = [self.lr] if isinstance(self.lr, int | float) else self.lr
        good = isinstance(rates, Sequence) and not isinstance(rates, str) and len(rates) > 0
        if not good or not all(isinstance(r, int | float) and not isinstance(r, bool) and 0 < r < float("inf") for r in rates):
            raise LightningFwdError(f"stage {self.name}: lr={self.lr!r}", "", "give a positive number, or a list of them to choose from")
        self.lr = tuple(map(float, rates))
        if isinstance(self.freeze, str) or not all(isinstance(path, str) for path in self.freeze):
            raise LightningFwdError(f"stage {self.name}: freeze={self.freeze!r}", "expected paths of modules", "write e.g. freeze: [stem]")
        if self.steps is not None and not self.learns:
            raise LightningFwdError(
                f"stage {self.name}: steps={self.steps}", "its rule learns from no labels and takes the steps that it needs", "leave it out"
            )

    def _check_choose(self) -> None:
        known = [f.name for f in dataclasses.fields(self.method) if f.init]
        listed = isinstance(self.choose, list | tuple)
        for settings in self.choose if listed else [self.choose]:
            if not listed or not isinstance(settings, dict) or not settings or not set(settings) <= set(known):
                raise LightningFwdError(
                    f"stage {self.name}: choose: {settings!r}",
                    f"it is a list of settings, each a mapping; those of the rule are {', '.join(known) or 'none'}",
                    "write e.g. choose: [{strength: 0.5}, {strength: 1.0}]",
                )
            dataclasses.replace(self.method, **settings)  # which checks their values

    @property
    def learns(self) -> bool:
        """Whether it follows a loss on labels."""
        return not self.method.updates_buffers_only

    @property
    def reads_labels(self) -> bool:
        """Whether it needs labels, be it only to weigh samples by their classes."""
        return self.learns or self.method.needs_target

    @property
    def adds_layers(self) -> bool:
        """Whether the network has more layers afterwards: a map of its input, a wider head."""
        return self.head != "own" or self.input != "own"

    @property
    def default_epochs(self) -> int:
        """Where none are said."""
        return 5 if self.learns else 1

    def for_labels(self, labelled: int) -> Stage:
        """The stage with the epochs that ``steps`` asks for, of so many labelled samples."""
        if self.steps is None:
            return self
        epochs = max(self.epochs or self.default_epochs, math.ceil(self.steps * self.batch_size / labelled))
        return dataclasses.replace(self, epochs=epochs, steps=None)

    def candidates(self) -> Iterator[Stage]:
        """The stage with one rule, nothing left open, and one rate: all among which an adaptation chooses."""
        rules = [dataclasses.replace(self.method, **settings) for settings in self.choose] or [self.method]
        for rule in (variant for named in rules for variant in named.variants()):
            for lr in self.lr if self.learns else self.lr[:1]:
                yield dataclasses.replace(self, method=rule, choose=(), lr=lr)

    @property
    def is_open(self) -> bool:
        """Whether there is anything to choose."""
        return len(list(self.candidates())) > 1

    @property
    def open_settings(self) -> list[str]:
        """Names of the rule's settings in which its candidates differ."""
        rules = [candidate.method for candidate in self.candidates()]
        return [f.name for f in dataclasses.fields(rules[0]) if any(getattr(rule, f.name) != getattr(rules[0], f.name) for rule in rules)]

    def choice(self, taken: Stage) -> str:
        """Of one of its candidates, what was chosen, for reports: its rate, and the settings in which candidates differ."""
        said = [f"{name} {getattr(taken.method, name)}" for name in self.open_settings]
        return ", ".join([f"lr {taken.lr[0]:g}"] * (self.learns and len(self.lr) > 1) + said)

    def prepared(self, net: nn.Module, source: Any, file: Path) -> Stage:
        """The stage with what its rule takes along of the source, see :meth:`LearningMethod.prepared`."""
        if self.input == "mapped":
            first, source = _peek(source)
            net, file = map_input(copy.deepcopy(net), first), file.with_name(f"{file.stem}_mapped{file.suffix}")
        return dataclasses.replace(self, method=self.method.prepared(net, source, file))

    def network(self, net: nn.Module, samples: Tensor) -> nn.Module:
        """``net`` itself or with the map and the head that the stage asks for, what ``freeze`` names frozen.

        Args:
            samples: ``(N, ...)`` of the target.

        Raises:
            LightningFwdError: ``freeze`` names no module with parameters, or the head cannot be widened.
        """
        if self.input == "mapped":
            net = map_input(net, samples)
        if self.head == "blocks":
            net = widen_head(net, samples)
        modules = dict(net.named_modules())
        for path in self.freeze:
            if path not in modules or not any(True for _ in modules[path].parameters()):
                known = ", ".join(name for name, child in net.named_children() if any(True for _ in child.parameters()))
                raise LightningFwdError(f"stage {self.name}: freeze: {path!r} is no module with parameters", "", f"there are: {known}")
            modules[path].requires_grad_(False)
        return net

    def optimizer(self, parameters: list[nn.Parameter], steps: int) -> tuple[Callable[[], None], Callable[[], None]]:
        """``(clear gradients, step)`` of SGD over so many steps; nothing where no parameter learns."""
        if not parameters:
            return (lambda: None), (lambda: None)
        sgd = torch.optim.SGD(parameters, self.lr[0], self.momentum)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, max(1, steps)) if self.schedule == "cosine" else None

        def step() -> None:
            sgd.step()
            if cosine is not None:
                cosine.step()

        return sgd.zero_grad, step


def _peek(source: Any) -> tuple[Tensor, Iterable]:
    """The first input of the source, and all its batches."""
    if hasattr(source, "train_dataloader"):
        source.prepare_data()
        source.setup("fit")
        source = source.train_dataloader()
    batches = iter(source)
    first = next(batches, None)
    if first is None:
        raise LightningFwdError("the source holds no batch", "a stage measures there what it takes along", "check the source's data")
    return first[0] if isinstance(first, tuple | list) else first, chain([first], batches)


def as_stages(stages: Any) -> list[Stage]:
    """A list of stages, rules, names of rules, or mappings of a stage's arguments as stages.

    Raises:
        LightningFwdError: it is empty or no list, or holds something else.
    """
    if isinstance(stages, str | dict | Stage | LearningMethod):
        stages = [stages]
    if not isinstance(stages, Sequence) or not stages:
        raise LightningFwdError(f"stages is {stages!r}", "an adaptation is a list of stages", "give e.g. ['statistics', 'sparse_update']")
    known = [f.name for f in dataclasses.fields(Stage)]
    made = []
    for stage in stages:
        if isinstance(stage, dict):
            if unknown := [str(key) for key in stage if key not in known]:
                raise LightningFwdError(f"stages: unknown {', '.join(unknown)}", "", f"known keys: {', '.join(known)}")
            if "method" not in stage:
                raise LightningFwdError(f"stages: {stage!r} names no method", "", "write e.g. {method: statistics}")
            made.append(Stage(**stage))
        else:
            made.append(stage if isinstance(stage, Stage) else Stage(stage))
    return made


def require_labels(stages: list[Stage], labelled: int) -> None:
    """Raises a LightningFwdError where a stage learns from labels and there are none."""
    reading = [stage.name for stage in stages if stage.reads_labels]
    if reading and not labelled:
        raise LightningFwdError(
            f"stage {reading[0]} learns from labels and got none", "", "give (x, y), or stages without labels: statistics, alignment"
        )
