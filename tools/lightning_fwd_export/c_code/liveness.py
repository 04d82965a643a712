"""Which bytes of the activation arena hold something while a call runs, and where a call's scratch fits beside them.

The program's planner knows tensors; scratch is our kernels' own affair, so it is placed here, in gaps that the plan leaves at that moment.
Where no gap is large enough the arena grows.
"""

from __future__ import annotations

from ..pte import Method, Tensor

ACTIVATIONS = 1  # the arena that ExecuTorch's planner fills with values of one run
_ALIGNMENT = 16

Ranges = list[tuple[int, int]]


class Gaps:
    """Free places in a method's activation arena, call by call.

    Attributes:
        end: bytes of the arena, with the scratch placed so far.
    """

    def __init__(self, method: Method):
        self.occupied = occupied(method)
        self.end = method.arenas[ACTIVATIONS] if len(method.arenas) > ACTIVATIONS else 0

    def place(self, position: int, nbytes: int) -> int:
        """Offset of ``nbytes`` that nothing else uses while call ``position`` runs; they are taken from now on."""
        taken, offset = self.occupied[position], 0
        for start, end in sorted(taken):
            if offset + nbytes <= start:
                break
            offset = max(offset, -(-end // _ALIGNMENT) * _ALIGNMENT)
        taken.append((offset, offset + nbytes))
        self.end = max(self.end, offset + nbytes)
        return offset


def occupied(method: Method) -> list[Ranges]:
    """Byte ranges in use during each call: its operands and results, and what a later call reads."""
    kept = _ranges(method.initialised)  # state in this arena lives on from call to call
    live = _ranges(method.outputs)
    found: list[Ranges] = []
    for call in reversed(method.calls):
        results = _tensors(call.args[-1:])  # the last argument repeats what a call writes
        written = {t.index for t in results}
        reads = _ranges([t for t in _tensors(call.args) if t.index not in written])
        writes = _ranges(results)
        found.append([*kept, *live, *reads, *writes])
        live = list(dict.fromkeys([*_without(live, writes), *reads]))
    return found[::-1]


def _tensors(values) -> list[Tensor]:
    return [t for v in values for t in (v if isinstance(v, list | tuple) else [v]) if isinstance(t, Tensor)]


def _ranges(tensors: list[Tensor]) -> Ranges:
    return [(t.offset, t.offset + t.nbytes) for t in tensors if t.arena == ACTIVATIONS and t.nbytes]


def _without(ranges: Ranges, removed: Ranges) -> Ranges:
    for low, high in removed:
        cut = [part for start, end in ranges for part in ((start, min(end, low)), (max(start, high), end))]
        ranges = [(start, end) for start, end in cut if start < end]
    return ranges
