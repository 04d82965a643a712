"""The best sparse update within a budget: exactly where the space is small, by evolution beyond."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from ..cost import step_cost
from ..graph.errors import LightningFwdError
from ..methods import rewrite
from .budget import Budget
from .space import Genome, Space, example_batch, within

EXACT = 20_000  #: genomes up to which all are looked at


class Prices:
    """The ledger's cost of each sparse update, asked for as rarely as possible.

    What trains less costs no more: a genome within one that fits also fits, and one that holds one that does not fit does not. Whatever is
    finally chosen is priced itself.

    Args:
        file: prices survive there (JSON), so that an interrupted search goes on; None keeps them in memory.
    """

    def __init__(
        self, net: nn.Module, example_input: Tensor, space: Space, width: str, momentum: float, file: Path | None = None
    ):
        self._net, self._batch, self._space = net, example_batch(example_input), space
        self._width, self._momentum, self._file = width, momentum, file
        self._known: dict[Genome, tuple[int, int]] = {}
        if file is not None and file.exists():
            self._known = {tuple(g): tuple(cost) for g, cost in json.loads(file.read_text())}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, genome: Genome) -> tuple[int, int]:
        """Peak RAM in bytes and MAC of one step at batch 1."""
        if genome not in self._known:
            model = rewrite(copy.deepcopy(self._net), self._space.method(genome), self._batch[0])
            cost = step_cost(model, self._batch, width=self._width, momentum=self._momentum)
            self._known[genome] = cost.peak_ram_bytes, cost.total_macs
            if self._file is not None:
                part = self._file.with_suffix(".part")
                part.write_text(json.dumps([[g, c] for g, c in self._known.items()]))
                part.replace(self._file)
        return self._known[genome]

    def fit(self, genome: Genome, budget: Budget) -> bool:
        """Whether a genome keeps the budget."""
        if genome not in self._known:
            for known, cost in self._known.items():
                allowed = budget.allows(*cost)
                if (allowed and within(genome, known)) or (not allowed and within(known, genome)):
                    return allowed
        return budget.allows(*self.of(genome))


def best(
    space: Space,
    value: Callable[[Genome], float],
    options: Sequence[Sequence[int]],
    prices: Prices,
    budget: Budget,
    seed: int = 0,
    count: int = 1,
) -> list[Genome]:
    """The ``count`` genomes of highest value that keep the budget, best first.

    Args:
        value: of a genome, higher is better. options: per position of the genome what may stand there, 0 included.

    Raises:
        LightningFwdError: not even the cheapest update keeps the budget.
    """
    _require_some(space, options, prices, budget)
    if space.size(options) <= EXACT:
        ranked = sorted((g for g in space.all(options) if any(g)), key=lambda g: (-value(g), g))
    else:
        ranked = evolve(value, options, lambda g: prices.fit(g, budget), seed)
    found: list[Genome] = []
    for genome in ranked:
        if len(found) == count:
            break
        if prices.fit(genome, budget) and budget.allows(*prices.of(genome)):
            found.append(genome)
    return found


def evolve(
    value: Callable[[Genome], float],
    options: Sequence[Sequence[int]],
    fits: Callable[[Genome], bool],
    seed: int,
    population: int = 32,
    generations: int = 60,
) -> list[Genome]:
    """Genomes that fit, best first, by mutation and crossover of the better ones; the same for the same seed.

    ``fits`` is asked only about genomes that would enter the population.
    """
    draw = random.Random(seed)
    ascending = [sorted(o) for o in options]
    living: dict[Genome, float] = {}

    def admit(genome: Genome) -> None:
        while any(genome) and genome not in living:
            worth = value(genome)
            if len(living) >= population and worth <= min(living.values()):
                return
            if fits(genome):
                living[genome] = worth
                if len(living) > population:
                    del living[min(living, key=lambda g: (living[g], g))]
                return
            place = draw.choice([i for i, g in enumerate(genome) if g])  # too dear: take one thing away and see
            lower = [o for o in ascending[place] if o < genome[place]]
            genome = (*genome[:place], lower[-1], *genome[place + 1 :])

    for place, choices in enumerate(ascending):
        for option in choices[1:]:
            admit(tuple(option if i == place else 0 for i in range(len(ascending))))
    for _ in range(population):
        admit(tuple(draw.choice(o) for o in ascending))
    for _ in range(generations):
        parents = sorted(living, key=lambda g: (-living[g], g))
        for _ in range(population):
            a, b = (min(draw.sample(range(len(parents)), 2)) if len(parents) > 1 else 0 for _ in range(2))
            child = [draw.choice(pair) for pair in zip(parents[a], parents[b], strict=True)]
            for _ in range(draw.choice((0, 1, 1, 2))):
                place = draw.randrange(len(child))
                child[place] = draw.choice(ascending[place])
            admit(tuple(child))
    return sorted(living, key=lambda g: (-living[g], g))


def random_genome(space: Space, prices: Prices, budget: Budget, seed: int) -> Genome:
    """A control: things added in random order as long as they fit, so that it uses the budget as a found one does."""
    draw, genome = random.Random(seed), space.nothing
    places = [(i, o) for i, most in enumerate(space.everything) for o in range(1, most + 1)]
    draw.shuffle(places)
    for place, option in places:
        grown = (*genome[:place], option, *genome[place + 1 :])
        if option > genome[place] and prices.fit(grown, budget):
            genome = grown
    return genome


def _require_some(space: Space, options: Sequence[Sequence[int]], prices: Prices, budget: Budget) -> None:
    cheapest = min(
        (
            space.single_step(place, min(o for o in choices if o))
            for place, choices in enumerate(options)
            if any(choices)
        ),
        key=lambda g: prices.of(g),
        default=None,
    )
    if cheapest is None or not budget.allows(*prices.of(cheapest)):
        cost = (
            "nothing is worth training"
            if cheapest is None
            else "the cheapest takes {:,} B RAM and {:,} MAC".format(*prices.of(cheapest))
        )
        raise LightningFwdError(
            f"no sparse update keeps the budget of {budget}", cost, "raise the budget, or price int8 (width: int8)"
        )
