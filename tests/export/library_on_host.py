"""An exported adaptation as a shared object, called from Python."""

import ctypes
import itertools
import subprocess
from pathlib import Path

import numpy as np
import torch
from lightning_fwd_export.host.runtime import compiler
from lightning_fwd_export.library.on_board import OUTCOMES, StageReport

STRICT = "-std=c99 -Wall -Wextra -Werror -Wconversion -Wshadow -pedantic -fno-strict-aliasing -fno-math-errno".split()


class Report(ctypes.Structure):
    _fields_ = [
        ("outcome", ctypes.c_int),
        ("before", ctypes.c_float),
        ("after", ctypes.c_float),
        *((name, ctypes.c_uint16) for name in ("judged_on", "epochs", "lost", "won")),
    ]


class Settings(ctypes.Structure):
    _fields_ = [("seed", ctypes.c_uint32), ("held_back", ctypes.c_uint32), ("patience", ctypes.c_uint16)]


def includes(folder: Path) -> list[str]:
    return [f"-I{folder}", f"-I{folder / 'kernels'}"]


def kernels(folder: Path, flags: list[str]) -> list[str]:
    """Object files of the kernel library, compiled once for these flags beside it."""
    objects = folder.parent / ("kernels" + "".join(c for c in "".join(flags) if c.isalnum()))
    if not objects.exists():
        objects.mkdir()
        files = map(str, sorted((folder / "kernels").glob("*.c")))
        subprocess.run([compiler("gcc"), *STRICT, *flags, *includes(folder), "-c", *files], check=True, cwd=objects)
    return sorted(map(str, objects.glob("*.o")))


def build(folder: Path, target: Path, flags: list[str], more: list[str], main: list[str] | None = None) -> str:
    """The library, compiled and linked with ``flags``, its own files with ``more`` as well."""
    files = [*map(str, sorted(folder.glob("*.c"))), *(main or [])]
    command = [compiler("gcc"), *STRICT, *flags, *more, *includes(folder), *files, *kernels(folder, flags), "-lm", "-o", str(target)]
    subprocess.run(command, check=True)
    return str(target)


class HostLibrary:
    """``lfwd_adapt.h`` on this machine, from the weights as shipped."""

    number = itertools.count()

    def __init__(self, folder: Path, work: Path, flags=()):
        path = work / f"library{next(self.number)}.so"
        self.c = ctypes.CDLL(build(folder, path, ["-O1", "-fPIC"], ["-shared", "-Wl,-Bsymbolic", *flags]))
        self.c.lfwd_outcome_text.restype = ctypes.c_char_p
        self.c.lfwd_samples_of.restype = ctypes.c_uint16
        lines = [line.split() for line in (folder / "lfwd_model.h").read_text().splitlines()]
        self.header = {words[1]: words[2].rstrip("u") for words in lines if words[:1] == ["#define"] and len(words) > 2}
        self.settings = Settings(*(int(self.header[f"LFWD_DEFAULT_{name}"]) for name in ("SEED", "HELD_BACK", "PATIENCE")))
        self.stages = int(self.header["LFWD_STAGES"])
        self.begin()

    def begin(self, seed: int | None = None) -> None:
        self.c.lfwd_init()
        self.c.lfwd_samples_clear(ctypes.c_uint32(self.settings.seed if seed is None else seed))

    def add(self, x: torch.Tensor, label: int = -1) -> int:
        values = np.ascontiguousarray(x.numpy().astype("f4"))
        return self.c.lfwd_samples_add(ctypes.c_void_p(values.ctypes.data), label)

    def add_all(self, x: torch.Tensor, y=None) -> list[int]:
        return [self.add(sample, -1 if y is None else int(y[i])) for i, sample in enumerate(x)]

    def adapt(self) -> list[StageReport]:
        reports = (Report * self.stages)()
        kept = self.c.lfwd_adapt(ctypes.byref(self.settings), reports)
        found = [StageReport(OUTCOMES[r.outcome], r.before, r.after, r.judged_on, r.epochs, r.lost, r.won) for r in reports]
        assert kept == sum(report.kept for report in found)
        return found

    @property
    def weights(self) -> bytes:
        buffer = (ctypes.c_uint8 * int(self.header["LFWD_WEIGHTS_BYTES"]))()
        self.c.lfwd_get_weights(buffer)
        return bytes(buffer)
