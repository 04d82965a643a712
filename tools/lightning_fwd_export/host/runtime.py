"""ExecuTorch's host runtime with the C kernels of ``csrc`` registered in it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import executorch
import torch
from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count
from executorch.runtime import Runtime
from torch import Tensor

from ..errors import ExportError, NoKernel
from ..generate_c import CSRC
from ..pte import read_program
from ..quiet import captured_stderr, quiet_stderr

_WHEEL = Path(executorch.__path__[0])
_SOURCE = Path(__file__).with_name("register_kernels.cpp")


def compiler(name: str) -> str:
    """Path of a host compiler.

    Raises:
        ExportError: it is not installed.
    """
    path = shutil.which(os.environ.get({"gcc": "CC", "g++": "CXX"}[name], name)) or shutil.which(name)
    if path is None:
        raise ExportError(
            f"{name} not found: the step is checked on the host with the board's kernels before anything is written. "
            "Install a C and C++ compiler (build-essential)"
        )
    return path


def run_tool(command: list[str], what: str) -> str:
    """Output of a command; an ExportError with its messages if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ExportError(f"{what} failed ({' '.join(command[:2])} ...):\n{(done.stderr or done.stdout)[-4000:]}")
    return done.stdout


def cache_folder() -> Path:
    """Where compiled kernels are kept; made if missing."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lightning_fwd"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.cache
def register_kernels() -> None:
    """Compile the kernels once per source state (cached in the user's cache folder) and load them into the runtime."""
    runtime = Runtime.get()
    with quiet_stderr():  # its thread pool looks for files of other processors
        _threadpool_get_thread_count()
    if "lfwd::sgd_" in runtime.operator_registry.operator_names:
        return
    sources = sorted([*CSRC.glob("*.[ch]"), _SOURCE])
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in sources) + str(_WHEEL).encode()).hexdigest()[:16]
    cache = cache_folder()
    library = cache / f"kernels-{digest}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=cache) as work:
            _build(Path(work), Path(work) / "kernels.so")
            os.replace(Path(work) / "kernels.so", library)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    if "lfwd::sgd_" not in runtime.operator_registry.operator_names:
        raise ExportError("the C kernels were built but ExecuTorch's runtime does not list them")


def _build(work: Path, library: Path) -> None:
    objects = []
    for source in sorted(CSRC.glob("*.c")):
        objects.append(str(work / f"{source.stem}.o"))
        c = [compiler("gcc"), "-std=c99", "-O2", "-fno-strict-aliasing", "-fPIC", "-c"]
        run_tool([*c, str(source), "-o", objects[-1]], f"compiling {source.name}")
    includes = [f"-I{CSRC}", f"-I{_WHEEL / 'include'}", f"-I{_WHEEL / 'include/executorch/runtime/core/portable_type/c10'}"]
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-DC10_USING_CUSTOM_GENERATED_MACROS", *includes]
    libraries = [f"-L{_WHEEL / 'lib'}", "-lexecutorch", f"-Wl,-rpath,{_WHEEL / 'lib'}"]
    command = [compiler("g++"), *flags, str(_SOURCE), *objects, *libraries, "-o", str(library)]
    run_tool(command, "compiling the kernel registration")


class HostProgram:
    """A program on ExecuTorch's host runtime; all methods are loaded before the first runs, so they share one set of weights.

    Raises:
        ExportError: not a program, or one that this runtime has no kernels for (named, with their layers).
    """

    def __init__(self, program: bytes):
        register_kernels()
        self._data = program
        try:
            self._program = Runtime.get().load_program(program)
            self.methods = {name: self._program.load_method(name) for name in sorted(self._program.method_names)}
        except RuntimeError as error:
            raise _refusal(program, error) from error

    def run(self, method: str, *inputs: Tensor) -> list[Tensor]:
        """Outputs of one method, copied out of the program's memory.

        Raises:
            ExportError: the runtime refuses the inputs, or a kernel its arguments.
        """
        said: list[str] = []
        try:
            with captured_stderr(said):
                return [torch.as_tensor(value).clone() for value in self.methods[method].execute(inputs)]
        except RuntimeError as error:
            if failed := _FAILED.search("".join(said)):
                raise self._failure(method, failed[1], said) from error
            shapes = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in inputs)
            raise ExportError(
                f"ExecuTorch's host runtime could not run {method} on inputs {shapes}",
                f"{error}: {_reason(said)}",
                "give inputs of the program's shapes and types",
            ) from error

    def _failure(self, method: str, operator: str, said: list[str]) -> NoKernel:
        calls = read_program(self._data, trust_unsealed=True).methods[method].calls
        layer = next((c.layer for c in calls if c.operator == operator), "")
        return NoKernel(
            f"operator {operator.partition('.')[0]} in or behind {layer or 'an unnamed module'} cannot be run by ExecuTorch's host runtime",
            f"the program could not be held against PyTorch: {_reason(said)}",
            "write it in another way: numbers that are added to images go into the bias of the layer before, say",
            layer,
        )


_FAILED = re.compile(r"KernelCall failed at instruction \d+:\d+ in operator (\S+?): ")


def _reason(said: list[str]) -> str:
    """What the runtime's kernels found wrong, of all that it printed."""
    checks = [line.partition("Check failed ")[2].strip() for line in said if "Check failed " in line]
    return checks[0] if checks else "it does not say why"


def _refusal(data: bytes, error: RuntimeError) -> ExportError:
    program = read_program(data, trust_unsealed=True)  # raises its own error where this is no program at all
    known = Runtime.get().operator_registry.operator_names
    missing = {
        f"{c.operator.removesuffix('.')} (in {c.layer or 'an unnamed module'}, {c.phase})": None
        for m in program.methods.values()
        for c in m.calls
        if c.operator.removesuffix(".") not in known
    }
    if missing:
        return ExportError(
            f"ExecuTorch's host runtime has no kernel for {', '.join(missing)}",
            "the program could not be checked against PyTorch",
            "use another layer in its place",
        )
    return ExportError(
        "ExecuTorch's host runtime does not load this program", str(error), "install the version of executorch that pyproject.toml names"
    )
