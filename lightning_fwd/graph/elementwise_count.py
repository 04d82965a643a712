"""How many elementwise operations an operator of our own takes, declared beside it: what ``torch.utils.flop_counter`` is for its MAC."""

from __future__ import annotations

from collections.abc import Callable

from torch._ops import OpOverload, OpOverloadPacket

_COUNTS: dict[str, Callable[..., int]] = {}


def count_elementwise(operator: OpOverloadPacket) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Decorator of the function that counts: it takes the operator's arguments (fake tensors), and gives operations on one element, integer
    or float.

    A multiply-accumulate that the operator's flop formula counts is none of them.
    """

    def register(count: Callable[..., int]) -> Callable[..., int]:
        _COUNTS[operator._qualified_op_name] = count
        return count

    return register


def elementwise_count_of(target: OpOverload) -> Callable[..., int] | None:
    """What was declared for an operator, None where nothing was. By name: given another overload later, its packet is another object."""
    return _COUNTS.get(target.overloadpacket._qualified_op_name)
