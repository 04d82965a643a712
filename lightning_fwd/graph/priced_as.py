"""In which memory category the ledger prices what a rewrite inserted: the inserted module says so itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

Memory = Literal["state", "values", "constants"]


@dataclass(frozen=True)
class PricedAs:
    """What an inserted module says of its memory, by an attribute ``priced_as``; modules inside it count as it unless they say otherwise.

    Attributes:
        state: category in RAM of its state that a step writes. values: of what it computes going forward.
        constants: category in Flash of its state's first or constant value.

    "" in any: as for the model's own layers.
    """

    state: str = ""
    values: str = ""
    constants: str = ""


class Inserted(nn.Module):
    """Holds all that a rewrite inserts. What is there and never changes is a constant of the step, unless its own module says otherwise."""

    priced_as = PricedAs(constants="constants")


def priced_modules(model: nn.Module) -> dict[str, PricedAs]:
    """Path to what the module there says of itself, of those that do."""
    said = {path: getattr(module, "priced_as", None) for path, module in model.named_modules() if path}
    return {path: priced_as for path, priced_as in said.items() if isinstance(priced_as, PricedAs)}


def category_of(path: str, said: dict[str, PricedAs], memory: Memory) -> str:
    """The category that the innermost module around ``path`` (of a module, parameter or buffer) gives for a kind of memory; "" if none
    does."""
    while path:
        if path in said and (category := getattr(said[path], memory)):
            return category
        path = path.rpartition(".")[0]
    return ""
