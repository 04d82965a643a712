"""What the generated functions of one program share: constants, tables, arenas and rates."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..pte import Tensor
from .kernels import number
from .liveness import ACTIVATIONS, Gaps
from .stages import RATE
from .state import shape

LEARNING_RATE, MOMENTUM = "learning_rate", "momentum"  #: numbers of a program that holds SGD; of one method alone: METHOD_learning_rate
FORMATS = {"float": "f", "int8_t": "b", "uint8_t": "B", "int16_t": "h", "int32_t": "i", "int64_t": "q"}


@dataclass
class Unit:
    """What the calls of all methods share: constants, shape tables and arenas. ``gaps``: where scratch of the method at hand may lie."""

    constants: dict[tuple[str, bytes], str] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    arenas: dict[int, str] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)
    gaps: Gaps | None = None
    activation_bytes: int = 0
    scratch_bytes: int = 0
    learning_rate: float | None = None
    momentum: float = 0.0
    rates: dict[str, str] = field(default_factory=dict)
    rate_name: str = RATE
    rate_macro: str = ""

    def pointer(self, t: Tensor) -> str:
        if t.arena is None:
            return self.named_constant(t.ctype, t.data)
        self.used[f"t{t.index}"] = f"{t.ctype} *const t{t.index} = (void *)({self.arenas[t.arena]} + {t.offset}); /* {shape(t)} */"
        return f"t{t.index}"

    def constant(self, ctype: str, values: list) -> str:
        return self.named_constant(ctype, struct.pack(f"<{len(values)}{FORMATS[ctype]}", *values))

    def named_constant(self, ctype: str, data: bytes) -> str:
        return self.constants.setdefault((ctype, data), f"constant_{len(self.constants)}")

    def table(self, ctype: str, fields: list) -> str:
        text = f"{ctype} %s = {_braces(fields)};"
        return "&" + self.tables.setdefault(text, f"{ctype.removeprefix('lfwd_')}_{len(self.tables)}")

    def rate(self, value: float) -> str:
        """The factor of an update. What is a multiple of the program's learning rate follows ``lfwd_set_rate``; with momentum only the
        parameters' own updates are, by the rate itself (``fuse_step.fuse_updates``): velocities take gradients as they are."""
        if self.learning_rate is None or value == 0 or (self.momentum and value != self.learning_rate):
            return number(value, "float")
        self.rates[self.rate_name] = self.rate_macro
        factor = value / self.learning_rate
        return self.rate_name if factor == 1 else f"{number(factor, 'float')} * {self.rate_name}"

    def rate_of(self, method: str, numbers: Mapping[str, int | float]) -> None:
        """The rate and momentum that a method's updates have: its own, or the program's."""
        own = f"{method}_{LEARNING_RATE}" in numbers
        self.rate_name, prefix = (f"{RATE}_{method}", f"{method}_") if own else (RATE, "")
        self.rate_macro = f"LFWD_{prefix}{LEARNING_RATE}".upper()
        self.learning_rate, self.momentum = numbers.get(prefix + LEARNING_RATE), numbers.get(prefix + MOMENTUM, 0.0)
        if self.momentum and self.learning_rate == 1:  # then a parameter's update looks like a velocity's
            self.learning_rate = None

    def scratch(self, nbytes: int, position: int) -> str:
        """Pointer to working memory of call ``position``: bytes of the activation arena that nothing else uses meanwhile."""
        place = self.gaps.place(position, nbytes)
        self.activation_bytes = max(self.activation_bytes, self.gaps.end)
        self.scratch_bytes = max(self.scratch_bytes, nbytes)
        return f"(void *)({self.arenas.setdefault(ACTIVATIONS, 'lfwd_activations')} + {place})"


def _braces(fields: list) -> str:
    return "{" + ", ".join(_braces(f) if isinstance(f, list) else str(f) for f in fields) + "}"
