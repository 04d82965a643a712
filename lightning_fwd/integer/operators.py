"""How an operator of the namespace ``lfwd`` is defined: its schema, its exact reference in PyTorch, the shape of its result."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.library import Library, impl, register_fake

_library = Library("lfwd", "FRAGMENT")

FUNCTIONAL: list[str] = []  #: operators with one result
UPDATES: list[str] = []  #: operators that give a state's new value, each with a form ``name_`` that writes it in place


def operator(schema: str, fake: Callable[..., Tensor]) -> Callable:
    """Decorator of the reference: integer tensors in, one int64 tensor (narrowed to the type of ``fake``'s result) out."""

    def define(reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = schema[: schema.index("(")]
        _library.define(f"{schema} -> Tensor")
        impl(_library, name, "CompositeExplicitAutograd")(_narrowed(reference, fake))
        register_fake(f"lfwd::{name}", lib=_library)(fake)
        FUNCTIONAL.append(name)
        return getattr(torch.ops.lfwd, name).default

    return define


def update(schema: str) -> Callable:
    """As :func:`operator`, for the new value of its first argument; also defines the form that writes it in place."""

    def define(reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name, arguments = schema[: schema.index("(")], schema[schema.index("(") + 1 : -1]
        assert arguments.startswith("Tensor self"), schema
        narrowed = _narrowed(reference, lambda self, *_: self)
        _library.define(f"{schema} -> Tensor")
        _library.define(f"{name}_(Tensor(a!) self{arguments.removeprefix('Tensor self')}) -> Tensor(a!)")
        impl(_library, name, "CompositeExplicitAutograd")(narrowed)
        impl(_library, f"{name}_", "CompositeExplicitAutograd")(lambda self, *args: self.copy_(narrowed(self, *args)))
        register_fake(f"lfwd::{name}", lib=_library)(lambda self, *args: torch.empty_like(self))
        register_fake(f"lfwd::{name}_", lib=_library)(lambda self, *args: self)
        UPDATES.append(name)
        return getattr(torch.ops.lfwd, name).default

    return define


def _narrowed(reference: Callable[..., Tensor], fake: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*args):
        like = fake(*args)
        return reference(*args).to(like.dtype).reshape(like.shape)

    return run


def int8_like(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.int8)


def int16_like(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.int16)


def one_exponent(x: Tensor, *_: object) -> Tensor:
    return x.new_empty((1,), dtype=torch.int8)
