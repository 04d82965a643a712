"""What a sensor gives becomes on the device, to the last bit, what the data module made of it for training."""

import ctypes
import subprocess

import numpy as np
import pytest
from lightning_fwd_export.c_code.prepare import add_prepare
from lightning_fwd_export.host.runtime import compiler
from lightning_fwd_export.mixed import quantise_input
from lightning_fwd_export.pte import Method, Program, Tensor

from lightning_fwd.data import DriftDataModule

HEADER = "#include <stdint.h>\n#define LFWD_FORWARD_IN0 {}\n\n#ifdef __cplusplus\n}}\n#endif\n"


def prepare(form, shape, raw, work, ctype="float", numbers=None):
    """What the C makes of raw values, channels last for int8 images."""
    order = (0, 2, 3, 1) if ctype == "int8_t" and len(shape) == 4 else tuple(range(len(shape)))
    x = Tensor(0, shape, order, ctype, 1 if ctype == "int8_t" else 4, "b" if ctype == "int8_t" else "f", 1, 0, None)
    files = {"lfwd_model.h": HEADER.format(x.count)}
    add_prepare(files, form, Program({"forward": Method("forward", [], [x], [], [])}, numbers or {}))
    for name, text in files.items():
        (work / name).write_text(text)
    flags = "-std=c99 -O2 -Wall -Wextra -Werror -Wconversion -pedantic -fPIC -shared".split()
    subprocess.run([compiler("gcc"), *flags, str(work / "lfwd_prepare.c"), "-lm", "-o", str(work / "p.so")], check=True)
    out = np.zeros(x.count, "i1" if ctype == "int8_t" else "f4")
    ctypes.CDLL(str(work / "p.so")).lfwd_prepare(ctypes.c_void_p(raw.ctypes.data), ctypes.c_void_p(out.ctypes.data))
    return out


@pytest.fixture(params=["uint8 images", "signals"])
def stored(request, tmp_path):
    rng = np.random.default_rng(0)
    if request.param == "signals":
        x = (rng.normal(size=(60, 3, 16)) * [[1.0], [5.0], [0.1]] + 2).astype("f4")
    else:
        x = rng.integers(0, 256, (60, 3, 8, 8)).astype("u1")
    y = np.arange(60) % 4
    file = tmp_path / "own.npz"
    np.savez(file, x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    return file, x[40:]


@pytest.mark.parametrize("normalize", [None, "standard", "byte"])
@pytest.mark.parametrize("ctype", ["float", "int8_t"])
def test_the_same_bits_reach_the_network(stored, normalize, ctype, tmp_path):
    file, raw = stored
    if raw.dtype != np.uint8:
        normalize = None  # signals are always standardised
    data = DriftDataModule(str(file), normalize=normalize, batch_size=20, val_fraction=0.0)
    data.prepare_data(), data.setup("test")
    (x, _), *_ = list(data.test_dataloader())
    numbers = {}
    given, wanted = np.ascontiguousarray(raw[: len(x)]), x
    if ctype == "int8_t":
        numbers = {"forward_input0_scale": float(x.abs().max()) / 100, "forward_input0_zp": -7}
        wanted = quantise_input(x, numbers, "forward")
        if x.dim() == 4:  # as it lies in memory
            given, wanted = np.ascontiguousarray(given.transpose(0, 2, 3, 1)), wanted.permute(0, 2, 3, 1)
    got = prepare(data.input_form(), tuple(x.shape), given, tmp_path, ctype, numbers)
    assert len(got) == wanted.numel() and np.array_equal(got, wanted.contiguous().numpy().reshape(-1))
