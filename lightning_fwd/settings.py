"""Settings of a dataclass: numbers of the declared kind, finite, within their bounds; words among those that are known."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import LightningFwdError

_SEEDS = 2**32  #: that generators of numpy, torch and Lightning all take


def check_settings(settings: Any, error: type[LightningFwdError], positive: Iterable[str] = (), not_negative: Iterable[str] = ()) -> None:
    """Refuse what a field's annotation does not allow; of unions of several kinds nothing is checked. What is called ``seed`` or ``seeds``
    has to be one, or a list of different ones.

    Args:
        settings: a dataclass instance. positive, not_negative: its numbers that must be above, or not below, 0 (None passes).

    Raises:
        error: naming the field, its value and what is expected.
    """
    kinds = get_type_hints(type(settings))
    for name in (field.name for field in fields(settings)):
        value, kind = getattr(settings, name), kinds[name]
        if get_origin(kind) is Literal:
            expected = "" if value in get_args(kind) else f"known: {', '.join(map(repr, get_args(kind)))}"
        else:
            allowed = set(get_args(kind)) if get_origin(kind) in (Union, UnionType) else {kind}
            if value is None and NoneType in allowed:
                continue
            expected = _unlike(value, *(allowed - {NoneType})) if len(allowed - {NoneType}) == 1 else ""
            if not expected and ((name in positive and not value > 0) or (name in not_negative and not value >= 0)):
                expected = "give a positive number" if name in positive else "give 0 or more"
            if not expected and name in ("seed", "seeds") and isinstance(value, Integral | list | tuple):
                expected = seed_fault(value)
        if expected:
            raise error(f"{type(settings).__name__}: {name}={value!r}", "", expected)


def seed_fault(seeds: int | Sequence[int]) -> str:
    """What is expected of a seed, or of a list of them, or "" where it is that."""
    listed = [seeds] if isinstance(seeds, Integral) else seeds
    if not all(0 <= seed < _SEEDS for seed in listed):
        return f"give whole numbers from 0, below {_SEEDS:,}" if listed is seeds else f"give a whole number from 0, below {_SEEDS:,}"
    if not listed or len(set(listed)) < len(listed):
        return "give each seed once, and one at least"
    return ""


def arguments(of: Callable) -> str:
    """Names and defaults of the arguments of a class or function, ``"a, b=1"``; "" of a builtin that does not tell."""
    try:
        parameters = inspect.signature(of).parameters.values()
    except ValueError:
        return ""
    made = {f.name: f.default_factory() for f in fields(of) if f.default_factory is not MISSING} if is_dataclass(of) else {}
    defaults = {p.name: made.get(p.name, p.default) for p in parameters}
    return ", ".join(name if default is inspect.Parameter.empty else f"{name}={default!r}" for name, default in defaults.items())


def _unlike(value: object, kind: Any) -> str:
    """What is expected of a number, a flag, text, or a list of such, or "" if the value is one."""
    if kind is bool and not isinstance(value, bool):
        return "give true or false"
    if kind is int and not (isinstance(value, Integral) and not isinstance(value, bool) and -(2**63) <= value < 2**63):
        return "give a whole number"
    if kind is float and not (isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)):
        return "give a finite number"
    if kind is str and not isinstance(value, str):
        return "give text"
    if get_origin(kind) is list:
        (of,) = get_args(kind)
        if not isinstance(value, list | tuple):
            return "give a list"
        return next((f"a list, of each: {wrong}" for wrong in (_unlike(each, of) for each in value) if wrong), "")
    return ""
