"""The best sparse update within a budget: exactly where the space is small, by evolution beyond."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ..cost import step_cost
from ..errors import LightningFwdError
from ..methods import rewrite
from ..plain_files import write_whole
from .budget import Budget
from .kept import prices_as_text, read_prices
from .space import Genome, Space, example_batch, within

EXACT = 20_000  #: genomes up to which all are looked at
ROUNDS = 15  #: of evolution, each with what the prices of the last one's best have taught


class Prices:
    """The ledger's cost of each sparse update, asked for as rarely as possible: each takes a second or two.

    What trains less costs no more: a genome within one that fits also fits, and one that holds one that does not fit does not. Whatever is
    finally chosen is priced itself.

    Args:
        file: prices survive there (JSON), so that an interrupted search goes on; None keeps them in memory. One of them is asked for again,
            and if it has changed, with the model or with the ledger, all are.
    """

    def __init__(self, net: nn.Module, example_input: Tensor, space: Space, width: str, momentum: float, file: Path | None = None):
        self._net, self._batch, self._space = net, example_batch(example_input), space
        self._width, self._momentum, self._file = width, momentum, file
        self._known: dict[Genome, tuple[int, int]] = {}
        self._fitted, self._sums = 0, np.zeros(0)
        if file is not None and file.exists():
            kept = read_prices(file)
            if kept and self._ask(genome := max(kept)) == kept[genome]:
                self._known = kept

    def __len__(self) -> int:
        return len(self._known)

    def of(self, genome: Genome) -> tuple[int, int]:
        """Peak RAM in bytes and MAC of one step at batch 1."""
        if genome not in self._known:
            self._known[genome] = self._ask(genome)
            if self._file is not None:
                write_whole(self._file, prices_as_text(self._known))
        return self._known[genome]

    def _ask(self, genome: Genome) -> tuple[int, int]:
        model = rewrite(copy.deepcopy(self._net), self._space.method(genome), self._batch[0])
        cost = step_cost(model, self._batch, width=self._width, momentum=self._momentum)
        return cost.peak_ram_bytes, cost.total_macs

    def fit(self, genome: Genome, budget: Budget) -> bool:
        """Whether a genome keeps the budget."""
        if genome not in self._known:
            for known, cost in self._known.items():
                allowed = budget.allows(*cost)
                if (allowed and within(genome, known)) or (not allowed and within(known, genome)):
                    return allowed
        return budget.allows(*self.of(genome))

    def likely_fit(self, genome: Genome, budget: Budget, slack: float = 0.0) -> bool:
        """Whether a genome keeps the budget, or is expected to, up to ``slack`` (a fraction of it), without asking.

        What is expected is a sum over what the genome trains, fitted to the prices that are known.
        """
        for known, cost in self._known.items():
            allowed = budget.allows(*cost)
            if (allowed and within(genome, known)) or (not allowed and within(known, genome)):
                return allowed
        if self._fitted != len(self._known):
            self._fitted = len(self._known)
            rows = np.stack([self._parts(g) for g in self._known])
            ridge = 1e-3 * np.eye(rows.shape[1])
            self._sums = np.linalg.solve(rows.T @ rows + ridge, rows.T @ np.array(list(self._known.values()), float))
        ram, macs = (self._parts(genome) @ self._sums) / (1 + slack)
        return budget.allows(ram, macs)

    def _parts(self, genome: Genome) -> np.ndarray:
        """1 for the step itself and for each option that is taken, those below it included."""
        return np.array([1, *(g >= o for g, most in zip(genome, self._space.everything, strict=True) for o in range(1, most + 1))], float)


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
    affordable = sorted(require_some(space, options, prices, budget), key=lambda g: (-value(g), g))
    if space.size(options) <= EXACT:
        ranked = sorted((g for g in space.all(options) if any(g)), key=lambda g: (-value(g), g))
    else:
        prices.of(tuple(map(max, options)))
        for i in range(ROUNDS):  # hopeful at first: what does not fit after all is asked once, and rules out all that holds it
            slack = 0.15 * (1 - i / ROUNDS)
            ranked = evolve(value, options, lambda g: prices.likely_fit(g, budget, slack), seed)  # noqa: B023
            if all([budget.allows(*prices.of(g)) for g in ranked[:count]]):  # a list: all of them are asked for, and teach
                break
        ranked += affordable  # should nothing that was evolved fit after all
    found: list[Genome] = []
    for genome in ranked:
        if len(found) == count:
            break
        if genome not in found and prices.fit(genome, budget) and budget.allows(*prices.of(genome)):
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
    for _ in range(generations if living else 0):
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
    """A control: things added in random order as long as they fit, so that it uses the budget as a found one does.

    Raises:
        LightningFwdError: not even the cheapest update keeps the budget.
    """
    draw, grown = random.Random(seed), [space.nothing]
    places = [(i, o) for i, most in enumerate(space.everything) for o in range(1, most + 1)]
    draw.shuffle(places)
    prices.of(space.everything)
    for fits in (prices.likely_fit, prices.fit):  # a guess first; then what it left out is asked for
        for place, option in places:
            genome = (*grown[-1][:place], option, *grown[-1][place + 1 :])
            if option > grown[-1][place] and fits(genome, budget):
                grown.append(genome)
        while any(grown[-1]) and not budget.allows(*prices.of(grown[-1])):
            grown.pop()
    if not any(grown[-1]):
        return draw.choice(require_some(space, space.options, prices, budget))
    return grown[-1]


def require_some(space: Space, options: Sequence[Sequence[int]], prices: Prices, budget: Budget, count: int | None = None) -> list[Genome]:
    """Of the cheapest updates, one per place, those that keep the budget; no more than ``count`` are looked for.

    Raises:
        LightningFwdError: there is none; the text names the cheapest.
    """
    cheapest = [space.single_step(place, min(o for o in choices if o)) for place, choices in enumerate(options) if any(choices)]
    if not cheapest:
        raise LightningFwdError(
            "nothing of the model wins back accuracy under the simulated drifts",
            "no bias and no weight did, each trained by itself",
            "train longer (epochs, samples), with another lr, or simulate stronger drifts",
        )
    affordable = list(islice((g for g in reversed(cheapest) if budget.allows(*prices.of(g))), count))
    if not affordable:
        least = dict.fromkeys(min(cheapest, key=lambda g: (prices.of(g)[i], prices.of(g))) for i in (0, 1))
        costs = ["{:,} B RAM and {:,} MAC per step".format(*prices.of(g)) + f" ({space.title(g)})" for g in least]
        raise LightningFwdError(
            f"no sparse update keeps the budget of {budget}",
            f"the least is {', or '.join(costs)}",
            "raise the budget, or make the step smaller (width int8, momentum 0)",
        )
    return affordable
