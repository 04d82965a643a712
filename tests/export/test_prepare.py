"""What a sensor gives becomes on the device, to the last bit, what the data module made of it for training."""

import ctypes
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from lightning_fwd_export import ExportError
from lightning_fwd_export.c_code.prepare import add_prepare
from lightning_fwd_export.generate_c import FIRMWARE
from lightning_fwd_export.host.runtime import compiler
from lightning_fwd_export.mixed import quantise_input
from lightning_fwd_export.pte import Method, Program, Tensor

from lightning_fwd.data import DriftDataModule
from lightning_fwd.data.audio import STEP, ZERO, mfcc
from lightning_fwd.data.inputs import InputForm
from lightning_fwd.data.integer_audio import mfcc_steps
from lightning_fwd.integer.masters import quantise

HEADER = "#include <stdint.h>\n#define LFWD_FORWARD_IN0 {}\n\n#ifdef __cplusplus\n}}\n#endif\n"


def write(form, shape, work, ctype, numbers):
    """The C that makes inputs of raw values, channels last for int8 images; how many values."""
    order = (0, 2, 3, 1) if ctype == "int8_t" and len(shape) == 4 else tuple(range(len(shape)))
    x = Tensor(0, shape, order, ctype, 1 if ctype == "int8_t" else 4, "b" if ctype == "int8_t" else "f", 1, 0, None)
    files = {"lfwd_model.h": HEADER.format(x.count)}
    add_prepare(files, form, Program({"forward": Method("forward", [], [x], [], [])}, numbers))
    for name, text in files.items():
        (work / name).write_text(text)
    if form.recording:
        for file in FIRMWARE.glob(f"lfwd_mfcc{'_integer' if form.integers else ''}.[ch]"):
            shutil.copy(file, work)
    return x.count


def prepare(form, shape, raw, work, ctype="float", numbers=None):
    """What the C makes of raw values."""
    count = write(form, shape, work, ctype, numbers or {})
    flags = "-std=c99 -O2 -Wall -Wextra -Werror -Wconversion -Wshadow -pedantic -fPIC -shared".split()
    flags += ["-fsanitize=undefined", "-fno-sanitize-recover=all"] if form.integers else []
    subprocess.run([compiler("gcc"), *flags, *map(str, work.glob("*.c")), "-lm", "-o", str(work / "p.so")], check=True)
    out = np.zeros(count, "i1" if ctype == "int8_t" else "f4")
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


@pytest.fixture(scope="module")
def sound():
    """Vowels that glide, a click, noise, silence, what never rises above zero, and one as loud as 16 bits get."""
    time, generator = torch.arange(16000) / 16000, torch.Generator().manual_seed(0)
    pitch = 2 * np.pi * torch.cumsum(110 + 60 * time, 0) / 16000
    vowel = sum(torch.sin(k * pitch) / k for k in range(1, 30)) * torch.sin(np.pi * time)
    click = torch.zeros(16000)
    click[8000] = 1.0
    noise = torch.randn(16000, generator=generator)
    kinds = [800 * vowel, 3 * vowel, 30000 * click, 500 * noise, 0 * time, -500 - 100 * vowel.abs(), 40000 * vowel + 2000 * noise]
    return torch.stack(kinds).round().clamp(-32768, 32767).to(torch.int16)


@pytest.mark.parametrize("ctype", ["float", "int8_t"])
def test_features_of_sound_on_the_device_are_those_of_training(sound, ctype, tmp_path):
    """One step of int8 apart at most, where a value lies between two steps: 2 in 1,000 here at most."""
    numbers = {"forward_input0_scale": STEP, "forward_input0_zp": ZERO}
    form = InputForm("int16", recording=sound.shape[1])
    got = prepare(form, (len(sound), 1, 49, 10), np.ascontiguousarray(sound.numpy()), tmp_path, ctype, numbers)
    wanted = (mfcc(sound.float() / 32768) / STEP + ZERO).round().flatten().numpy()
    steps = np.rint(got / STEP + ZERO) if ctype == "float" else got.astype(int)
    assert np.abs(steps - wanted).max() <= 1 and (steps != wanted).mean() < 2e-3
    if ctype == "float":
        assert np.array_equal(got, ((torch.from_numpy(steps).float() - ZERO) * STEP).numpy())


@pytest.mark.skipif("LIGHTNING_FWD_DATA" not in os.environ, reason="LIGHTNING_FWD_DATA is not set")
def test_features_of_speech_on_the_device_are_those_of_training(tmp_path):
    data = DriftDataModule("speech_commands", drift="white_noise=0.56", view="target", val_fraction=0, test_samples=100, int16=True)
    raw, (wanted, _) = data.recorded("test"), data.tensors("test")
    got = prepare(data.input_form(), tuple(wanted.shape), np.ascontiguousarray(raw.numpy()), tmp_path)
    off = np.abs(got - wanted.numpy().reshape(-1)) / STEP
    assert off.max() < 1.5 and (off > 0.5).mean() < 1e-4


@pytest.mark.parametrize("ctype", ["float", "int8_t"])
def test_features_in_integers_have_the_bits_of_python_s(sound, ctype, tmp_path):
    sound = torch.cat([sound, torch.where(sound[:1] > 0, 32767, -32768).to(torch.int16), torch.full((1, 16000), -32768, dtype=torch.int16)])
    form = InputForm("int16", recording=sound.shape[1], integers=True)
    got = prepare(form, (len(sound), 1, 49, 10), np.ascontiguousarray(sound.numpy()), tmp_path, ctype, {"input_exponent": 0})
    wanted = ((mfcc_steps(sound) - ZERO).float() * STEP).flatten()
    assert np.array_equal(got, (quantise(wanted, torch.zeros(1)) if ctype == "int8_t" else wanted).numpy())


def test_features_in_integers_are_those_in_float(sound):
    """But for a step, where a value lies between two: 0.3 in 1,000 here."""
    off = (mfcc_steps(sound) - (mfcc(sound.float() / 32768) / STEP + ZERO).round()).abs()
    assert off.max() <= 1 and (off > 0).double().mean() < 1e-3


@pytest.mark.skipif("LIGHTNING_FWD_DATA" not in os.environ, reason="LIGHTNING_FWD_DATA is not set")
@pytest.mark.parametrize(("drift", "most"), [(None, 1e-3), ("white_noise=0.56", 3e-4)])
def test_features_of_speech_in_integers_are_those_in_float(drift, most):
    """Two network inputs of the same sound, 100 utterances: 0.5 and 0.1 in 1,000 values are a step apart."""
    view = {"view": "target", "drift": drift} if drift else {}
    data = DriftDataModule("speech_commands", val_fraction=0, test_samples=100, int16=True, **view)
    off = (data.tensors("test")[0] - data.changed(mfcc="integer").tensors("test")[0]).abs() / STEP
    assert off.max() < 1.5 and (off > 0.5).double().mean() < most


@pytest.mark.board
@pytest.mark.parametrize(
    ("form", "shape"),
    [
        (InputForm("int16", recording=16000, integers=True), (1, 1, 49, 10)),
        (InputForm("uint8", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1)), (1, 3, 8, 8)),
    ],
    ids=["sound", "images"],
)
def test_what_a_library_in_integers_reads_needs_no_float(form, shape, tmp_path, emulator):
    """Code for a Cortex-M0+: what it calls of the compiler's and the C library's."""
    write(form, shape, tmp_path, "int8_t", {"input_exponent": 0})
    flags = "-mcpu=cortex-m0plus -mthumb -O2 -std=c99 -Wall -Wextra -Werror -Wconversion -Wshadow -pedantic -c".split()
    subprocess.run(["arm-none-eabi-gcc", *flags, *map(str, tmp_path.glob("*.c"))], check=True, cwd=tmp_path)
    listed = subprocess.run(["arm-none-eabi-nm", "-u", *tmp_path.glob("*.o")], check=True, capture_output=True, text=True).stdout
    called = {line.split()[-1] for line in listed.splitlines() if " U " in line}
    floats = tuple(f"__aeabi_{kind}" for kind in ("f", "d", "i2", "ui2", "l2", "ul2"))
    assert called and not [name for name in called if name.startswith(floats) or name in ("nearbyintf", "sqrtf", "logf")]


def test_a_network_that_reads_something_else_than_features_is_refused(tmp_path):
    with pytest.raises(ExportError, match="reads 64 values"):
        prepare(InputForm("int16", recording=16000), (1, 64), np.zeros(16000, np.int16), tmp_path)
