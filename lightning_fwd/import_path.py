"""What an import path in a recipe may name: a class of the kind asked for, or a function that says it makes one. Checked before it is
called."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin

from .errors import LightningFwdError


def named(path: str, kind: type, what: str) -> Callable[..., Any]:
    """The class or function that an import path names. Its module is imported, which runs that module; nothing that it holds is called.

    Args:
        path: ``package.module.Name``.
        kind: what it must make. what: what the recipe calls it ("model", "data"), for errors.

    Raises:
        LightningFwdError: it is no class of this kind, nor a function whose annotation says that it returns one.
        ImportError: its module cannot be imported, whatever its code raised, or lacks the name.
    """
    module_name, _, attribute = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if not module_name:
        raise LightningFwdError(f"{what} {path!r} is no import path", "", "write package.module.Class")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the module's own code
        raise ImportError(f"{what} {path!r}: cannot import {module_name!r}: {type(error).__name__}: {error}") from error
    try:
        found = getattr(module, attribute)
    except AttributeError as error:
        raise ImportError(f"{what} {path!r}: module {module_name!r} has no {attribute!r}") from error
    if isinstance(found, type) and issubclass(found, kind):
        return found
    wanted = f"{kind.__module__.removesuffix('.modules.module')}.{kind.__name__}"
    if inspect.isfunction(found):
        if _makes(found, kind):
            return found
        raise LightningFwdError(
            f"{what} {path!r} is a function that does not say what it makes",
            "a recipe may not call any function there is",
            f"name a class, or annotate yours: def {attribute}(...) -> {wanted}",
        )
    kind_of_it = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
    raise LightningFwdError(
        f"{what} {path!r} is {kind_of_it}, no {wanted}",
        "it was not called",
        f"name a class that derives from {wanted}, or a function -> {wanted}",
    )


def _makes(function: Callable, kind: type) -> bool:
    """Whether the annotation of what a function returns is the kind, a class derived from it, or a choice of such."""
    innermost = inspect.unwrap(function)
    said = getattr(function, "__annotations__", {}).get("return")
    if isinstance(said, str):
        try:
            said = eval(said, getattr(innermost, "__globals__", {}))  # the module's own code, which its import has run already
        except Exception:  # a name that stands there for type checkers only
            return False
    choices = get_args(said) if get_origin(said) is Union or type(said).__name__ == "UnionType" else (said,)
    return all(isinstance(choice, type) and issubclass(choice, kind) for choice in choices)
