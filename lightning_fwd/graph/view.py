"""A module that shows another: it shares the other's children, parameters, buffers, hooks and indices, and runs them its own way."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from ..errors import RewriteError, StepError
from .constants import INSERTED, is_inserted

_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
    "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip


class View(nn.Module):
    """A view of ``original``: same objects under the same names, so that optimizers and checkpoints of either fit the other.

    What is inserted lies under one more child, ``inserted``, and can be told apart by its name (:func:`constants.is_inserted`). Attributes
    that a view does not have are the original's; modules that are assigned to it become the original's.

    Raises:
        RewriteError: a child, parameter or buffer of the original is named like a member of the view.
    """

    original: nn.Module

    def __init__(self, original: nn.Module):
        super().__init__()
        self._refuse_clashing_names(original)
        hidden = self.__dict__  # not registered: the original shares every child with this module
        hidden["original"] = original
        self._parameters, self._buffers = original._parameters, original._buffers
        self._non_persistent_buffers_set = original._non_persistent_buffers_set
        self._modules = dict(original._modules)
        hidden.update({name: getattr(original, name) for name in _HOOKS})  # the original's own run around this one
        self.training = original.training
        self.register_load_state_dict_post_hook(_allow_plain_state)

    @property
    def inserted(self) -> Any:
        """Module that holds all inserted state."""
        return self._modules[INSERTED]

    @inserted.setter
    def inserted(self, module: nn.Module) -> None:
        self._modules[INSERTED] = module  # nn.Module.__setattr__ would register it as "inserted"

    @property
    def _is_full_backward_hook(self) -> bool | None:
        """Of which kind the hooks in ``_backward_hooks`` are: nn.Module says so beside them."""
        return self.__dict__["original"]._is_full_backward_hook

    @_is_full_backward_hook.setter
    def _is_full_backward_hook(self, kind: bool | None) -> None:
        if "original" in self.__dict__:
            self.original._is_full_backward_hook = kind

    def __getattr__(self, name: str) -> Any:
        children = self.__dict__.get("_modules", {})
        if name in children:  # what the graph's code asks for, several times a step
            return children[name]
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "original" not in self.__dict__:  # protocols (copy, pickle) ask for this object's own
                raise
            return getattr(self.__dict__["original"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "inserted":
            object.__setattr__(self, name, value)
        elif isinstance(value, nn.Module):  # a new head, say: it belongs to the original
            setattr(self.original, name, value)
            self._modules[name] = value
        elif self._is_of_the_original(name):  # a temperature that is annealed, say
            setattr(self.original, name, value)
        else:
            super().__setattr__(name, value)

    def _is_of_the_original(self, name: str) -> bool:
        """Whether an attribute, no parameter, is the network's own and not one that this view has too."""
        if name in self.__dict__ or name == "training" or "original" not in self.__dict__:
            return False
        held = vars(self.original)  # empty while it is unpickled
        theirs = name in held or name in held.get("_buffers", ()) or hasattr(type(self.original), name)
        return theirs and name not in _names_of(type(self))

    def __delattr__(self, name: str) -> None:
        try:
            super().__delattr__(name)
        except AttributeError:
            delattr(self.original, name)

    # ---- the original's own indices, where it is a Sequential

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self.original)  # type: ignore[arg-type]

    def __getitem__(self, index: Any) -> Any:
        return self.original[index]  # type: ignore[index, operator]

    def __setitem__(self, index: Any, module: nn.Module) -> None:
        self.original[index] = module  # type: ignore[index, operator]
        self._modules.update(self.original._modules)

    # ---- the one input

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """As the original is called: hooks see the one input, whatever it was called by."""
        return super().__call__(inputs[0] if len(inputs) == 1 and not named else self.only_input(inputs, named))

    def only_input(self, inputs: tuple, named: dict[str, Any]) -> Any:
        """The one input of a call, which may be by name; further arguments must have their defaults, with which the graph was captured.

        Raises:
            StepError: another argument has another value.
        """
        if len(inputs) == 1 and not named:
            return inputs[0]
        bound = inspect.signature(self.original.forward).bind(*inputs, **named).arguments
        (_, x), *others = bound.items()
        parameters = inspect.signature(self.original.forward).parameters
        for name, value in others:
            default = parameters[name].default
            if value is not default and not (
                type(value) is type(default) and isinstance(value, bool | int | float | str) and value == default
            ):
                raise StepError(
                    f"{type(self.original).__name__} was called with "
                    f"{name}={type(value).__name__ if isinstance(value, Tensor) else value!r}",
                    f"its graph was captured with the default, {default!r}, and has one input",
                    "bind the argument in __init__, or wrap the network so that forward(x) takes one tensor",
                )
        return x[0] if parameters[next(iter(bound))].kind is inspect.Parameter.VAR_POSITIONAL else x

    # ---- modules that were replaced since

    def remember(self, modules: dict[str, nn.Module]) -> None:
        """What the captured graph calls, by path: the view is of these objects, and of no others that may take their place."""
        self.__dict__["_captured"] = modules
        children = {path.partition(".")[0] for path in modules}
        self.__dict__["captured_children"] = {name: self.original._modules[name] for name in children if name in self.original._modules}

    def is_stale(self) -> bool:
        """Whether a module that the graph calls was replaced in the original since."""
        now = dict(self.original.named_modules(remove_duplicate=False))
        return any(now.get(path) is not module for path, module in self._captured.items())

    def refuse_replaced_children(self) -> None:
        """Refuse to run the graph on other children than those it was captured with.

        Raises:
            StepError: one was replaced.
        """
        for name, child in self.captured_children.items():
            if self.original._modules.get(name) is not child:
                raise StepError(
                    f"{name!r} of {type(self.original).__name__} was replaced after the rewrite",
                    "the graph that runs and learns was captured with the one before",
                    "fit by the rule's Lightning strategy, which rewrites anew, or call lf.unwrap(module) and rewrite again",
                )

    @classmethod
    def _refuse_clashing_names(cls, net: nn.Module) -> None:
        own = _names_of(cls) - set(dir(nn.Module))
        own -= set(nn.Module.__annotations__)
        held = (net.named_children(), net.named_parameters(recurse=False), net.named_buffers(recurse=False))
        clashing = [name for kind in held for name, _ in kind if name in own]
        if clashing:
            raise RewriteError(
                f"{type(net).__name__}.{clashing[0]} cannot be told from {clashing[0]!r} of the rewritten model",
                "the rewritten model holds its layers under the same names as the original",
                f"rename it, or rewrite a module that holds the network as a child (its layers are then NAME.{clashing[0]})",
            )


def _names_of(cls: type) -> set[str]:
    """What objects of a class have, as far as it says so."""
    return set(dir(cls)) | {name for base in cls.__mro__ for name in getattr(base, "__annotations__", {})}


def _allow_plain_state(_model: View, keys: Any) -> None:
    """The original's state_dict loads, strictly, into the view: inserted state then stays as it is."""
    keys.missing_keys[:] = [key for key in keys.missing_keys if not is_inserted(key)]
