"""Steps that are traced to be lowered to integers: what a rule computes in a dozen operations stands as one there.

The error of a softmax, the gradient of Forward-Forward's contrast, a norm over a sample: each has a form in integers as a whole, and
none in its parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_WHOLE: ContextVar[bool] = ContextVar("whole_operations", default=False)


@contextmanager
def whole_operations() -> Iterator[None]:
    """Inside, a rule runs its operators of the namespace ``lfwd`` in the place of their parts: the same values."""
    token = _WHOLE.set(True)
    try:
        yield
    finally:
        _WHOLE.reset(token)


def is_whole() -> bool:
    """Whether :func:`whole_operations` is in force."""
    return _WHOLE.get()
