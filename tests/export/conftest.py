"""The kernel library as a shared object, small exported steps, and what the board tests need."""

import ctypes
import os
import subprocess

import pytest

pytest.importorskip("executorch", reason="needs the extra [export]")

from lightning_fwd_export.boards import missing_tools
from lightning_fwd_export.generate_c import CSRC
from lightning_fwd_export.host.runtime import compiler
from tiny_exports import export_module, tiny


@pytest.fixture(scope="session")
def csrc(tmp_path_factory):
    """csrc/ built for the host with the undefined-behaviour sanitizer: any overflow or bad shift aborts."""
    library = tmp_path_factory.mktemp("csrc") / "lfwd.so"
    flags = "-std=c99 -O1 -g -fPIC -shared -Wall -Wextra -Werror -Wconversion -fsanitize=undefined -fno-sanitize-recover=all"
    subprocess.run([compiler("gcc"), *flags.split(), *map(str, sorted(CSRC.glob("*.c"))), "-o", str(library), "-lm"], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="session")
def emulator():
    """Skips where cross compiler or emulator are missing, except in CI."""
    if missing := missing_tools():
        message = f"not installed: {', '.join(missing)}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """``exported(network, method, **arguments)`` -> (program, report, folder), each built once per session."""
    cache = {}

    def get(network, method, **arguments):
        key = (network, repr(method), tuple(sorted(arguments.items())))
        if key not in cache:
            model, batch = tiny(network, method)
            out = tmp_path_factory.mktemp("export")
            cache[key] = (*export_module.export_program(model, batch, out, lr=0.05, **arguments), out)
        return cache[key]

    return get
