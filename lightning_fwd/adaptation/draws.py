"""What an adaptation draws by lot, the same on the host and in the C of a device: samples that stay, samples held back, their order.

Integers only, from :mod:`lightning_fwd.graph.counter_random`; ``lfwd_adapt.c`` of the exporter draws the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from ..graph.counter_random import hash32

_BUFFER, _HELD, _ORDER = 0, 1, 0x10000  #: windows of the one cycle of draws; of an order so many for each stage, one for each epoch
UNLABELLED = -1  #: the label of a sample that has none
NORMAL = 0  #: that of every sample, where a network looks for anomalies


class Draws:
    """A window of the cycle: draw ``i`` is a 32-bit number."""

    def __init__(self, seed: int, window: int):
        self._start = cast(int, hash32(cast(int, hash32(seed)) + window))

    def __getitem__(self, i: int) -> int:
        return cast(int, hash32(self._start + i))


def order(count: int, seed: int, stage: int, epoch: int) -> list[int]:
    """``0 .. count - 1`` in the order in which a stage takes them in one epoch (Fisher and Yates)."""
    draws, places = Draws(seed, _ORDER * (stage + 1) + epoch), list(range(count))
    for last in range(count - 1, 0, -1):
        other = draws[last] % (last + 1)
        places[last], places[other] = places[other], places[last]
    return places


def share_of(held_back: float) -> int:
    """A share as the device has it, in parts of 65536."""
    return round(held_back * 65536)


def hold_back(labels: Sequence[int], share: float, seed: int) -> list[bool]:
    """Which samples are held back: of each class a share, every so manieth of a drawn order. Those without a label never are."""
    draws, parts = Draws(seed, _HELD), share_of(share)
    offset = draws[len(labels)] >> 16
    labelled = [i for i, label in enumerate(labels) if label != UNLABELLED]
    held = [False] * len(labels)
    for place, i in enumerate(sorted(labelled, key=lambda i: (labels[i], draws[i], i))):
        held[i] = (place + 1) * parts + offset >> 16 > place * parts + offset >> 16
    return held


class Buffer:
    """A class-balanced reservoir: room for so many samples of a stream, of each class about as many.

    Until it is full every sample stays. Then one of a class that was never the largest takes the place of one of the largest class; one of
    another class takes the place of one of its own, with the chance that makes all that were seen of the class equally likely to be there
    (Chrysakis and Moens, "Online continual learning from imbalanced data", ICML 2020, algorithm 1). Samples without a label are one more
    class.

    Attributes:
        labels: of the samples that are there, slot by slot.
    """

    def __init__(self, room: int, classes: int, seed: int):
        self.room, self.labels, self._draws, self._added = room, list[int](), Draws(seed, _BUFFER), 0
        self._seen, self._was_largest = [0] * (classes + 1), [False] * (classes + 1)

    def add(self, label: int) -> int | None:
        """The slot where a sample of this label goes; None: it is not taken."""
        kind, first = label + 1, 2 * self._added
        self._added += 1
        self._seen[kind] += 1
        if len(self.labels) < self.room:
            self.labels.append(label)
            return len(self.labels) - 1
        counts = [self.labels.count(k - 1) for k in range(len(self._seen))]
        self._was_largest = [was or count == max(counts) for was, count in zip(self._was_largest, counts, strict=True)]
        from_kind = counts.index(max(counts))
        if self._was_largest[kind]:
            if self._draws[first] % self._seen[kind] >= counts[kind]:
                return None
            from_kind = kind
        slots = [slot for slot, there in enumerate(self.labels) if there == from_kind - 1]
        slot = slots[self._draws[first + 1] % len(slots)]
        self.labels[slot] = label
        return slot
