"""What Vela writes for one network: command stream, constants, and where in the arena inputs and outputs lie."""

from __future__ import annotations

from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

#: number of the memory region that holds the constants / the arena, in what Vela writes
CONSTANTS, ARENA = 0, 1


@dataclass(frozen=True)
class Slot:
    """An input or output of the program: int8, channels last, at ``offset`` in the arena."""

    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Binary:
    """A network compiled for an Ethos-U.

    Attributes:
        accelerator: Vela's name.
        commands: what the driver takes: its own header, then the command stream.
        constants: compressed weights and scale and bias records.
        arena: bytes of the working memory.
    """

    accelerator: str
    commands: bytes
    constants: bytes
    arena: int
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]

    @classmethod
    def read(cls, npz: Path, accelerator: str) -> Binary:
        """Vela's raw output (``--output-format raw``)."""
        with np.load(npz, allow_pickle=False) as raw:

            def slots(kind: str) -> tuple[Slot, ...]:
                if not (raw[f"{kind}_elem_size"] == 1).all() or not (raw[f"{kind}_region"] == ARENA).all():
                    raise ValueError(f"{npz.name}: an {kind} is not int8 or not in the arena")
                return tuple(Slot(int(o), tuple(map(int, s))) for o, s in zip(raw[f"{kind}_offset"], raw[f"{kind}_shape"], strict=True))

            commands, constants = raw["cmd_data"].tobytes(), raw["weight_data"].tobytes()
            return cls(accelerator, commands, constants, int(raw["scratch_shape"][0]), slots("input"), slots("output"))


def compile_tosa(tosa: bytes, accelerator: str) -> Binary:
    """Vela alone, with the system and memory that ExecuTorch assumes for the accelerator: the same bytes as through ExecuTorch."""
    from ethosu.vela import vela
    from executorch.backends.arm.ethosu import EthosUCompileSpec

    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        source = Path(folder) / "out.tosa"
        source.write_bytes(tosa)
        vela.main([*EthosUCompileSpec(accelerator).compiler_flags, f"--output-dir={folder}", str(source)])
        return Binary.read(Path(folder) / "out_vela.npz", accelerator)
