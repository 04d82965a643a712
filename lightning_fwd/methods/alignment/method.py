"""The rule: measure in rounds, solve between them, fold into the weights.

Second-order statistics as in CORAL (Sun, Feng and Saenko, "Return of frustratingly easy domain adaptation", AAAI 2016, arXiv 1511.05547),
at every layer instead of the last, by the optimal-transport map between Gaussians, and without the source's data on the device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ...errors import RewriteError
from ...graph.across_ranks import ranks
from ...graph.constants import INSERTED
from ...graph.phase import layer, phase
from ...graph.rewritten import RewrittenModel
from ..base import LearningMethod, Logits, StepRecord, Update, Updates
from .moments import Moments
from .operators import folded, transport_of_sums
from .places import Place, Round, find_convolutions, find_input_map, find_norms, in_rounds, shift_survives
from .source import EARLY, Home, read_moments, source_moments
from .transport import added_bias

_FLOOR, _FLOOR_OF_PATCHES = 1e-3, 1e-4  #: neighbouring pixels vary together: a patch has many directions in which it varies little


@dataclass
class Alignment(LearningMethod):
    """Map what each convolution reads so that its mean and covariance are the source's again, and recompute the batch norm behind it.

    Steps come in rounds. In a round the model predicts ``samples`` samples while the sums of some layers' inputs grow; at its end these
    layers are solved and written, and the next ones, which read what they give, have their turn. Further steps change nothing.

    Args:
        source: file of :func:`source_moments`; None: only the batch norms are recomputed, layer by layer.
        strength: of the map, 0 to 1, in layers aligned by channels; 0: only the batch norms are set right; None: an adaptation chooses
            between 0.5 without and 1.0 with patches; a fit takes 0.5.
        patches: so many of the first convolutions are aligned by whole patches (what one position reads: C x kernel values), which tells
            noise from what it covers.
        patch_strength: of the map in these.
        samples: per round.
        layers: ``"all"``, with the map in front of the network, if it has one (:func:`lightning_fwd.map_input`); ``"input"``: that alone.
        norms: ``"target"`` gives a batch norm the statistics of the target; ``"relative"`` moves those it has by as much as what it reads
            has moved from the source to the target: right where the norms were trained on another mix of classes than both.
        class_mix: the share of each class among what the norms were trained on. Samples then count by their labels, so that the target
            shows that mix too; a first round counts the labels.
    """

    updates_buffers_only: ClassVar[bool] = True  # no optimizer: weights are given new values, not gradients
    positive: ClassVar[tuple[str, ...]] = ("samples",)
    not_negative: ClassVar[tuple[str, ...]] = ("strength", "patches", "patch_strength")
    source: str | None = None
    strength: float | None = None
    patches: int = 0
    patch_strength: float = 0.75
    samples: int = 100
    layers: Literal["all", "input"] = "all"
    norms: Literal["target", "relative"] = "target"
    class_mix: Sequence[float] | None = None

    @property
    def needs_target(self) -> bool:  # type: ignore[override]  # a matter of the settings here
        return self.class_mix is not None

    def variants(self) -> list[LearningMethod]:
        if self.strength is not None or self.source is None:
            return [self]
        if self.layers == "input":
            return [dataclasses.replace(self, strength=strength) for strength in (0.5, 1.0)]
        return [dataclasses.replace(self, strength=0.5, patches=0), dataclasses.replace(self, strength=1.0, patches=self.patches or EARLY)]

    def prepared(self, net: nn.Module, source: Any, file: Path) -> LearningMethod:
        if self.source is not None:
            return self
        more = f"_of_{self.patches}" if self.patches > EARLY else ""  # beside those of rows that want fewer layers by patches
        path = file.with_suffix(f".moments{more}.safetensors")
        return dataclasses.replace(self, source=source_moments(net, source, path, patches=max(self.patches, EARLY)))

    def rewrite(self, model: RewrittenModel) -> None:
        if any(s is not None and s > 1.0 for s in (self.strength, self.patch_strength)):
            raise RewriteError(
                f"Alignment: strength={self.strength}, patch_strength={self.patch_strength}", "1 is the whole map", "use 0 to 1"
            )
        if self.source is None and (self.strength or self.patches):
            raise RewriteError(
                f"Alignment: strength={self.strength}, patches={self.patches} without the source's moments",
                "the map is from the target's to the source's; without them only batch norms are recomputed",
                "give source=FILE, written by lf.source_moments, or leave both out",
            )
        self._check_mix(model)
        norms = find_norms(model.graph, model, model.opaque) if self.layers == "all" else []
        convolutions: list[Place] = []
        if self.source is not None and self.strength != 0:
            found = find_convolutions(model.graph, model, self.patches) if self.layers == "all" else []
            convolutions = find_input_map(model.graph, model) + [p for p in found if shift_survives(model.graph, model, p)]
        if self.layers == "input" and not convolutions:
            raise RewriteError(
                f"Alignment(layers='input') finds no map in front of {type(model.original).__name__} that the source was measured at"
                if self.source is not None
                else "Alignment(layers='input') without the source's moments",
                "it sets that map by how the input's mean and covariance differ from the source's",
                "give input='mapped' to the stage, or lf.map_input(net, samples) to source_moments and to the rule",
            )
        if not convolutions + norms:
            raise RewriteError(
                f"Alignment finds {'no batch norm' if self.source is None else 'no plain convolution'} in {type(model.original).__name__}",
                "without the source's moments batch norm is all that it sets right"
                if self.source is None
                else "its map is folded into these",
                "give source=FILE, written by lf.source_moments" if self.source is None else "choose another method for this model",
            )
        state = _State(self.source, convolutions, norms, model, self)
        model.inserted.alignment = state.to(model.example_input.device)
        state.rounds = in_rounds(model.graph, convolutions + norms, counting=self.class_mix is not None)
        model.freeze({name for name, _ in model.named_parameters()})

    def _check_mix(self, model: RewrittenModel) -> None:
        if self.norms == "relative" and self.source is None:
            raise RewriteError(
                "Alignment: norms='relative' without the source's moments",
                "it compares what a norm reads with what it read at home",
                "give source=FILE, written by lf.source_moments",
            )
        mix = self.class_mix
        if mix is None:
            return
        numbers = not isinstance(mix, str) and isinstance(mix, Sequence) and all(isinstance(m, int | float) for m in mix)
        if not numbers or len(mix) != model.num_classes or not all(0 <= m < float("inf") for m in mix) or not sum(mix) > 0:
            raise RewriteError(
                f"Alignment: class_mix={mix!r}", f"it is a share for each of {model.num_classes} classes", "give as many numbers from 0"
            )

    def check_step(self, model: RewrittenModel, x: Tensor, target: Tensor | None) -> None:
        super().check_step(model, x, target)
        model.inserted.alignment.refresh()

    def updates(self, model: RewrittenModel, record: StepRecord) -> Updates:
        state = model.inserted.alignment
        now = state.now()
        with torch.no_grad(), phase("forward"):
            logits, *values = (now.forward if now else state.rounds[-1].forward)(model, record.input)
        yield Logits(logits)
        if now is None:
            return
        sums, weights = [], state.weights(record.target) if self.class_mix is not None else None
        for place, value in zip(now.places, values, strict=True):
            key, moments = state.key(place), state.moments_of(place)
            with torch.no_grad(), phase("normalisation"), layer(place.path):
                sums.append(moments.added(value, place.readings(model.get_submodule(place.path)), weights))
            for name, new in sums[-1].items():
                yield Update(f"{INSERTED}.alignment.moments.{key}.{name}", getattr(moments, name), value=new)
        if not now.places:  # the round that counts labels
            with torch.no_grad(), phase("normalisation"):
                counts = state.labels + one_hot(record.target, len(state.labels)).sum(0)
            yield Update(f"{INSERTED}.alignment.labels", state.labels, value=counts)
        with torch.no_grad(), phase("update"):
            seen = state.seen + len(record.input) * ranks().size
        if type(seen) is Tensor and int(seen) >= self.samples:  # never while being traced
            for place, new in zip(now.places, sums, strict=True):
                yield from self._set_right(model, state, place, new)
            yield Update(f"{INSERTED}.alignment.round", state.round, value=state.round + 1)
            seen = torch.zeros_like(seen)
        yield Update(f"{INSERTED}.alignment.seen", state.seen, value=seen)

    @property
    def has_rounds(self) -> bool:
        return self.class_mix is None  # the round that counts labels is no sum that is solved

    def end_of_round(self, model: RewrittenModel) -> Iterator[Update]:
        state = model.inserted.alignment
        for place in state.now().places:
            moments = state.moments_of(place)
            yield from self._set_right(model, state, place, {name: getattr(moments, name) for name in ("total", "products", "count")})

    @torch.no_grad()
    def _set_right(self, model: RewrittenModel, state: _State, place: Place, sums: dict[str, Tensor]) -> Iterator[Update]:
        """The end of a round for one layer: what its sums ask for."""
        module, path = model.get_submodule(place.path), place.path
        count = sums["count"].to(sums["total"].dtype)
        offset = sums["total"] / count
        mean = state.moments_of(place).centre + offset
        home = state.home(place)
        if place.kind == "norm":
            unbiased = (sums["products"] / count - offset * offset) * (count / (count - 1).clamp_min(1))
            if home is not None and self.norms == "relative":
                mean, unbiased = relative(module, mean, unbiased, home.mean, home.deviation * home.deviation)
            yield Update(f"{path}.running_mean", module.running_mean, value=mean.to(module.running_mean.dtype))
            yield Update(f"{path}.running_var", module.running_var, value=unbiased.clamp_min(0).to(module.running_var.dtype))
            return
        assert home is not None, "a layer is mapped by what its input was at home"
        floor = _FLOOR_OF_PATCHES if self.patches else _FLOOR
        strength = self.patch_strength if place.kind == "patches" else 0.5 if self.strength is None else self.strength
        matrix = transport_of_sums(*sums.values(), home.deviation, home.correlation, floor, strength)
        groups = getattr(module, "groups", 1)
        if module.bias is not None:
            shift = home.mean - (matrix * mean if matrix.ndim == 1 else (matrix * mean).sum(1))
            added = added_bias(module.weight, shift, place.kind, groups)
            yield Update(f"{path}.bias", module.bias, value=module.bias + added.to(module.bias.dtype))
        yield Update(f"{path}.weight", module.weight, value=folded(module.weight, matrix, groups))

    def unfinished(self, model: RewrittenModel) -> str:
        state = model.inserted.alignment
        done, rounds = int(state.round), len(state.rounds)
        left = (rounds - done) * self.samples - int(state.seen)
        return f"{rounds - done} of {rounds} rounds, {left} samples, are left" if done < rounds else ""

    def beyond_the_step(self, model: RewrittenModel) -> str:
        if not self.has_rounds:
            why = "its first round counts labels, and not all samples of a device's buffer have one"
            return f"{why}; leave class_mix out: norms='relative' needs none"
        return f"the solving of its layers after every {self.samples} samples; export it as a stage of a library (export_library)"

    def stages(self, model: RewrittenModel) -> Iterator[int]:
        state = model.inserted.alignment
        for number in range(len(state.rounds)):
            state.begin_round(number)
            yield self.samples
        state.begin_round(0)

    def beside_the_step(self, model: RewrittenModel) -> dict[str, int]:
        state = model.inserted.alignment
        n = max((len(m.products) for m in state.moments.values() if m.products.ndim == 2), default=0)
        written = sum(
            4 * p.numel() for r in state.rounds for x in r.places if x.kind != "norm" for p in model.get_submodule(x.path).parameters()
        )
        solving = 4 * (3 * n * n + 2 * n)  # sums, map, the vectors that the solver turns, roots and a column
        return {"flash": state.shipped_bytes, "ram": solving, "written": written}


class _State(nn.Module):
    """What the source had, and the sums of the target, of each place.

    Attributes:
        round, seen: how many rounds are done, and samples of the present one. labels: how often each class was counted.
        shipped_bytes: of the source's moments in their file.
    """

    rounds: list[Round]

    def __init__(self, source: str | None, convolutions: list[Place], norms: list[Place], model: RewrittenModel, rule: Alignment):
        super().__init__()
        device, weighted = model.example_input.device, rule.class_mix is not None
        if rule.class_mix is not None:
            self.register_buffer("labels", torch.zeros(len(rule.class_mix), dtype=torch.int64, device=device))
            self.register_buffer("mix", torch.tensor(rule.class_mix, dtype=torch.float32) / sum(rule.class_mix), persistent=False)
        device = model.example_input.device
        self.register_buffer("round", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64, device=device))
        self.moments, self.shipped_bytes, self._round = nn.ModuleDict(), 0, 0
        compared = convolutions + (norms if rule.norms == "relative" else [])
        sizes = [_inputs_of(model.get_submodule(p.path), p) for p in compared]
        for place, home in zip(compared, read_moments(source, compared, sizes) if source else [], strict=True):
            key = self.key(place)
            for name in ("mean", "deviation", "correlation"):
                self.register_buffer(f"{key}/{name}", getattr(home, name), persistent=False)
            full = place.kind in ("patches", "channels", "features")
            self.moments[key], self.shipped_bytes = Moments(home.mean, full, weighted), self.shipped_bytes + home.nbytes
        for place in norms:
            if place not in compared:
                self.moments[self.key(place)] = Moments(model.get_buffer(f"{place.path}.running_mean"), False, weighted)

    def home(self, place: Place) -> Home | None:
        """The source's moments there; None of a norm that is not compared with them."""
        names = [f"{self.key(place)}/{name}" for name in ("mean", "deviation", "correlation")]
        return Home(*(self._buffers[name] for name in names)) if names[0] in self._buffers else None

    @staticmethod
    def key(place: Place) -> str:
        return place.path.replace(".", "/")

    def moments_of(self, place: Place) -> Moments:
        return self.moments[self.key(place)]

    def weights(self, target: Tensor) -> Tensor:
        """How much each sample counts ``(B,)``: 1 on average over the samples whose labels were counted."""
        return (self.mix * self.labels.sum() / self.labels.clamp_min(1))[target]

    def refresh(self) -> None:
        """Note the round, for a step whose tensors are traced and have no values."""
        if type(self.round) is Tensor:
            self._round = int(self.round)

    def begin_round(self, number: int) -> None:
        self.round.fill_(number)
        self.refresh()

    def now(self) -> Round | None:
        """What this step measures; None: all rounds are done."""
        return self.rounds[self._round] if self._round < len(self.rounds) else None


def relative(norm: nn.Module, mean: Tensor, var: Tensor, home_mean: Tensor, home_var: Tensor) -> tuple[Tensor, Tensor]:
    """The norm's own statistics, moved as its input has moved from the source to the target ``(C,)`` each.

    With r = sqrt(var / home_var): what the norm gives on the target then has the mean and spread that it gave on the source.
    """
    own_mean, own_var = norm.running_mean, norm.running_var
    floor = 1e-3 * own_var + 1e-6  # a channel that hardly varies at home would be stretched without bound
    ratio = (var + floor) / (home_var + floor)
    return mean - (home_mean - own_mean) * ratio.sqrt(), (own_var + norm.eps) * ratio - norm.eps


def _inputs_of(module: nn.Module, place: Place) -> int:
    if place.kind == "norm":
        return module.num_features
    if place.kind == "features":
        return module.in_features
    kernel = torch.Size(module.kernel_size).numel() if place.kind == "patches" else 1
    return module.in_channels * kernel
