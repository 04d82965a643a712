"""What was learned survives a reset and a power cut at any byte; the rate can be set; a self-test finds a wrong bit."""

import ctypes
import itertools
import random
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from lightning_fwd_export.boards import board
from lightning_fwd_export.boards.build import SEMIHOSTED, board_flags, compile_model, compile_object, emulate, link
from lightning_fwd_export.c_code.state import StateTensors, state_macros
from lightning_fwd_export.host.runtime import compiler
from lightning_fwd_export.pte import Tensor, read_program
from tiny_exports import TinyMlp

import lightning_fwd as lf

STRICT = "-std=c99 -Wall -Wextra -Werror -Wconversion -Wshadow -pedantic -fno-strict-aliasing -fno-math-errno".split()
STORED, NOTHING, DAMAGED, OTHER_MODEL, OTHER_VERSION, READ_FAILED, WRITE_FAILED = range(7)
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint8), ctypes.c_uint32)


class FlashTable(ctypes.Structure):
    _fields_ = [("read", CALLBACK), ("write", CALLBACK), ("context", ctypes.c_void_p)]


class PowerCut(Exception):
    pass


class Flash:
    """Two slots; ``cut``: so many bytes from now on the power goes, in the midst of a piece or of an erasure."""

    def __init__(self, slot_bytes, piece):
        self.slots, self.piece = [bytearray(b"\xff" * slot_bytes) for _ in range(2)], piece
        self.cut, self.written, self.garbage = None, 0, random.Random(0)
        self.table = FlashTable(CALLBACK(self._read), CALLBACK(self._write), None)

    def _read(self, _, slot, at, to, count):
        assert at + count <= len(self.slots[slot])
        ctypes.memmove(to, bytes(self.slots[slot][at : at + count]), count)
        return 0

    def _write(self, _, slot, at, source, count):
        assert count == self.piece and at % self.piece == 0
        if at == 0:
            erased = len(self.slots[slot])
            if self.cut is not None and self.cut < erased // 8:  # while it is being erased: any bytes
                self.slots[slot][:] = self.garbage.randbytes(erased)
                return 1
            self.slots[slot][:] = b"\xff" * erased
        assert all(b == 0xFF for b in self.slots[slot][at : at + count]), "written twice without erasing"
        for k in range(count):
            if self.cut is not None and self.written >= self.cut:
                return 1
            self.slots[slot][at + k] = source[k]
            self.written += 1
        return 0


class Library:
    """One firmware: the generated C of a program, with its store, on this machine."""

    number = itertools.count()

    def __init__(self, folder, work, flags=()):
        path = work / f"firmware{next(self.number)}.so"
        sources = [*sorted(folder.glob("*.c")), *sorted((folder / "kernels").glob("*.c"))]
        include = [f"-I{folder}", f"-I{folder / 'kernels'}"]
        command = [
            compiler("gcc"),
            *STRICT,
            "-O1",
            "-fPIC",
            "-shared",
            "-Wl,-Bsymbolic",
            *flags,
            *include,
            *map(str, sources),
            "-lm",
            "-o",
            str(path),
        ]
        subprocess.run(command, check=True)
        self.c = ctypes.CDLL(str(path))
        self.c.lfwd_why.restype = ctypes.c_char_p
        lines = [line.split() for line in (folder / "lfwd_model.h").read_text().splitlines()]
        self.header = dict(words[1:3] for words in lines if words[:1] == ["#define"] and len(words) > 2)
        self.bytes = int(self.header["LFWD_STATE_BYTES"])
        regions = (ctypes.c_void_p * (2 * int(self.header["LFWD_STATE_REGIONS"]))).in_dll(self.c, "lfwd_state")
        self.regions = [(regions[2 * i], (regions[2 * i + 1] or 0) & 0xFFFFFFFF) for i in range(len(regions) // 2)]
        self.c.lfwd_init()

    @property
    def state(self):
        return b"".join(ctypes.string_at(place, count) for place, count in self.regions)

    @state.setter
    def state(self, content):
        for place, count in self.regions:
            ctypes.memmove(place, content[:count], count)
            content = content[count:]

    def save(self, flash):
        return self.c.lfwd_save(ctypes.byref(flash.table))

    def load(self, flash):
        return self.c.lfwd_load(ctypes.byref(flash.table))


@pytest.fixture(scope="module")
def firmware(exported, tmp_path_factory):
    program, _, out = exported("mlp", lf.Backprop(batch_norm="freeze"), steps=2, momentum=0.9)
    return Library(out / "c", tmp_path_factory.mktemp("firmware")), program, out / "c"


def flash_for(library, piece=32):
    return Flash(-(-(24 + library.bytes + 4) // piece) * piece, piece)


def test_a_save_comes_back_with_momentum_and_counter(firmware):
    library, program, _ = firmware
    flash = flash_for(library)
    assert library.bytes > int(library.header["LFWD_WEIGHTS_BYTES"])  # momentum beside the weights
    assert library.load(flash) == NOTHING and b"nothing" in library.c.lfwd_why(NOTHING)
    initial, learned = library.state, random.Random(1).randbytes(library.bytes)
    library.state = learned
    assert library.save(flash) == STORED
    library.c.lfwd_init()
    assert library.state == initial
    assert library.load(flash) == STORED and library.state == learned
    slot = flash.slots[0]
    assert slot[24 : 24 + library.bytes] == learned and int.from_bytes(slot[12:16], "little") == 1
    end = 24 + library.bytes
    assert zlib.crc32(slot[:end]) == int.from_bytes(slot[end : end + 4], "little")  # the checksum of everyone's tools


def test_slots_take_turns_and_the_newest_counts(firmware):
    library, _, _ = firmware
    flash, states = flash_for(library), [bytes([k]) * library.bytes for k in range(5)]
    for k, state in enumerate(states):
        library.state = state
        before = bytes(flash.slots[1 - k % 2])
        assert library.save(flash) == STORED and bytes(flash.slots[1 - k % 2]) == before
        library.c.lfwd_init()
        assert library.load(flash) == STORED and library.state == state


def test_a_power_cut_at_any_byte_leaves_the_old_or_the_new(firmware):
    library, _, _ = firmware
    rng, old, new = random.Random(2), None, None
    for trial in range(200):
        flash = flash_for(library)
        for _ in range(rng.randrange(3)):  # saves before it: none, one, two
            library.state = old = rng.randbytes(library.bytes)
            assert library.save(flash) == STORED
        saved = any(b != 0xFF for b in flash.slots[0])
        library.state = new = rng.randbytes(library.bytes)
        flash.written, flash.cut = 0, rng.randrange(len(flash.slots[0]) + 1) if trial else 0
        done = library.save(flash)
        library.c.lfwd_init()
        initial = library.state
        flash.cut = None
        result = library.load(flash)
        assert library.state in ({old, new} if saved else {initial, new})
        assert library.state == new if done == STORED else done == WRITE_FAILED
        assert (result == STORED) == (library.state != initial)
        library.state = again = rng.randbytes(library.bytes)
        assert library.save(flash) == STORED and library.load(flash) == STORED and library.state == again


def test_what_is_not_a_whole_save_of_this_model_is_refused(firmware):
    library, _, _ = firmware
    flash = flash_for(library)
    library.state = random.Random(3).randbytes(library.bytes)
    assert library.save(flash) == STORED
    whole, rng = bytes(flash.slots[0]), random.Random(4)
    end = 24 + library.bytes + 4
    for trial in range(1000):
        damaged = bytearray(whole)
        kind = trial % 4
        if kind == 0:
            damaged[rng.randrange(end)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            damaged[rng.randrange(end - 1) :] = b""
            damaged += b"\xff" * (len(whole) - len(damaged))
        elif kind == 2:
            at = rng.randrange(end - 8)
            damaged[at : at + 8] = rng.randbytes(8)
        else:
            damaged[:] = rng.randbytes(len(whole))
        flash.slots[0][:] = damaged
        library.c.lfwd_init()
        before = library.state
        assert damaged == whole or (library.load(flash) not in (STORED, WRITE_FAILED) and library.state == before)


def test_slots_go_back_into_the_plain_model(firmware, tmp_path):
    library, _, code = firmware
    flash, count = flash_for(library), int(library.header["LFWD_WEIGHTS_BYTES"])
    for seed in (1, 2):
        weights = np.random.default_rng(seed).normal(size=count // 4).astype("f4").tobytes()
        library.state = weights + bytes(library.bytes - count)
        assert library.save(flash) == STORED
    dump, net = tmp_path / "flash.bin", TinyMlp()
    dump.write_bytes(flash.slots[0] + b"\xff" * 100 + flash.slots[1])
    lf.load_device_weights(net, dump, code.parent)
    assert b"".join(p.detach().numpy().tobytes() for p in net.parameters()) == weights
    flash.slots[0][8] ^= 1
    with pytest.raises(lf.LightningFwdError, match="another model"):
        lf.load_device_weights(net, bytes(flash.slots[0]), code.parent)


@pytest.mark.parametrize("at, result", [(4, OTHER_VERSION), (8, OTHER_MODEL), (30, DAMAGED)])
def test_it_says_why(firmware, at, result):
    library, _, _ = firmware
    flash = flash_for(library)
    assert library.save(flash) == STORED
    flash.slots[0][at] ^= 1
    assert library.load(flash) == result and len(library.c.lfwd_why(result)) > 10


def test_weights_of_another_training_are_another_model():
    """Frozen weights are part of the model: what was learned beside them fits no others."""

    def model_hash(learned=b"abcd", frozen=b"constant", shape=(1,)):
        state = StateTensors([Tensor(0, shape, (0,), "float", 4, "f", 2, 0, learned)], [])
        return state_macros(state, [frozen], {})[-1]

    assert model_hash() == model_hash() and "LFWD_MODEL_HASH" in model_hash()
    assert len({model_hash(), model_hash(learned=b"abce"), model_hash(frozen=b"Constant"), model_hash(shape=(1, 1))}) == 4


def train(library, program, x, y):
    library.c.lfwd_train_step(
        *(ctypes.c_void_p(t.ctypes.data) for t in (x, y)), ctypes.create_string_buffer(64), ctypes.create_string_buffer(1024)
    )


@pytest.mark.parametrize("momentum", [pytest.param(0.0, marks=pytest.mark.slow), 0.9])
def test_the_rate_can_be_set(exported, tmp_path, momentum):
    """A step at the rate r moves every weight r / lr times as far; and at the rate of another export as that export does."""
    program, _, out = exported("conv", lf.Backprop(batch_norm="freeze"), steps=2, momentum=momentum)
    library, methods = Library(out / "c", tmp_path), read_program(program.data).methods
    count = int(library.header["LFWD_WEIGHTS_BYTES"]) // 4
    x = np.random.default_rng(0).normal(size=methods["train_step"].inputs[0].count).astype("f4")
    y = np.array([0, 1, 2], "i8")

    def moved(rate):
        library.c.lfwd_init()
        library.c.lfwd_set_rate(ctypes.c_float(rate))
        before = np.frombuffer(library.state[: 4 * count], "f4").copy()
        train(library, program, x, y)
        return np.frombuffer(library.state[: 4 * count], "f4") - before

    once, twice, none = moved(0.05), moved(0.1), moved(0.0)
    assert np.abs(once).max() > 0.001 and not none.any()
    assert np.allclose(twice, 2 * once, atol=1e-6)


def test_the_self_test_finds_a_wrong_bit(exported, tmp_path):
    _, _, out = exported("conv", lf.Backprop(batch_norm="freeze"), steps=2, momentum=0.0)
    assert Library(out / "c", tmp_path, ["-DLFWD_SELFTEST"]).c.lfwd_selftest() == 0
    broken = tmp_path / "broken"
    shutil.copytree(out / "c", broken)
    kernel = broken / "kernels" / "sgd_f32.c"
    text = kernel.read_text()
    assert "-lr * grad[o]" in text or "decay * state[i] - lr" in text
    kernel.write_text(text.replace("decay * state[i] - lr", "decay * state[i] + lr").replace("-lr * grad[o]", "lr * grad[o]"))
    assert Library(broken, tmp_path, ["-DLFWD_SELFTEST"]).c.lfwd_selftest() in (3, 4)  # a later result: the weights moved wrongly


@pytest.mark.board
@pytest.mark.parametrize("name", ["mps2-an385", "mps2-an386"])
def test_200_power_cuts_on_a_board(firmware, tmp_path, emulator, name):
    _, _, code = firmware
    target = board(name)
    flags = [*board_flags(target), "-std=c99", f"-I{code}", f"-I{code / 'kernels'}"]
    objects = [*compile_model(tmp_path, code, target, ["-O2"]), compile_object(code / "lfwd_store.c", tmp_path, flags)]
    elf = link(tmp_path, code, target, Path(__file__).parent / "power_cuts.c", objects, SEMIHOSTED)
    words = emulate(tmp_path, elf, target, 120).split()
    counts = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    assert counts["other"] == 0 and counts["old"] + counts["new"] == 200 and min(counts["old"], counts["new"]) > 50
