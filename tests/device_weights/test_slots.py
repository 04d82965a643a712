"""Bytes that came off a device: which are taken, and what is said of the others."""

import random
import struct
import zlib

import pytest

from lightning_fwd.device_weights.slots import weights_of
from lightning_fwd.errors import LightningFwdError

STATE, WEIGHTS, HASH = 60, 40, 0xC0FFEE42


def slot(number, state, model=HASH, version=1, sizes=(STATE, WEIGHTS)):
    content = struct.pack("<4s5I", b"LFWD", version, model, number, *sizes) + state
    return content + zlib.crc32(content).to_bytes(4, "little") + b"\xff" * 8


def read(content):
    return weights_of(content, WEIGHTS, STATE, HASH, "'flash.bin'")


def states(count):
    return [random.Random(k).randbytes(STATE) for k in range(count)]


def test_a_blob_is_taken_as_it_is():
    assert read(b"LFWD" + bytes(WEIGHTS - 4)) == b"LFWD" + bytes(WEIGHTS - 4)  # by its size alone


def test_the_newest_whole_slot_of_a_dump_counts():
    old, new, spelling = (*states(2), b"LFWD" * (STATE // 4))
    gap = b"\xff" * 1000
    assert read(slot(7, old)) == old[:WEIGHTS]
    assert read(slot(7, old) + gap + slot(8, new)) == read(slot(8, new) + gap + slot(7, old)) == new[:WEIGHTS]
    assert read(slot(0xFFFFFFFF, old) + slot(0, new)) == new[:WEIGHTS]  # the number wraps around
    damaged = bytearray(slot(9, new))
    damaged[30] ^= 1
    assert read(gap + slot(8, old) + bytes(damaged)) == old[:WEIGHTS]
    assert read(slot(1, spelling) + slot(2, new)) == new[:WEIGHTS]
    assert read(slot(2, spelling)) == spelling[:WEIGHTS]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (slot(1, bytes(STATE), model=1), "another model"),
        (slot(1, bytes(STATE), version=2), "version 2"),
        (slot(1, bytes(STATE), sizes=(STATE, 44)), "44 of weights"),
        (slot(1, bytes(STATE))[:70], "cut off"),
        (slot(1, bytes(STATE))[:30] + b"x" + slot(1, bytes(STATE))[31:], "CRC"),
        (b"LFWD", "ends within its header"),
        (bytes(WEIGHTS + 1), "41 bytes, where lfwd_get_weights gives 40 and a slot has at least 88"),
        (b"", "0 bytes"),
        (b"\xff" * 4096, "no slot begins in it"),
    ],
)
def test_it_says_why_not(content, why):
    with pytest.raises(LightningFwdError, match=why) as error:
        read(content)
    assert "flash.bin" in str(error.value) and error.value.mend


def test_no_damage_is_read_as_weights():
    whole, rng = slot(5, states(1)[0]), random.Random(1)
    for trial in range(500):
        damaged = bytearray(whole)
        if trial % 2:
            damaged[rng.randrange(len(whole) - 8)] ^= 1 << rng.randrange(8)
        else:
            del damaged[rng.randrange(len(whole) - 8) :]
        if len(damaged) != WEIGHTS:
            with pytest.raises(LightningFwdError):
                read(bytes(damaged))
