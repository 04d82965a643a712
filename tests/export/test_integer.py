"""A step in integers as C: the bits of Python, on this machine and on boards with and without an FPU."""

import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
from lightning_fwd_export.boards import BOARDS, run_on_board
from lightning_fwd_export.check import board_calls
from lightning_fwd_export.code_size import shipped_ram
from lightning_fwd_export.errors import ExportError
from lightning_fwd_export.generate_c import translate, write_sources
from lightning_fwd_export.integer import build_integer, check_integer, integer_calls, reference_run
from torch import nn

import lightning_fwd as lf
from lightning_fwd.integer import IntegerRule
from lightning_fwd.integer.price import price_integers
from lightning_fwd.integer.rate import Rate
from lightning_fwd.models import ResNet8


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


def deep() -> nn.Module:
    """Three hidden layers, of which two have a head by :class:`ForwardForward`."""
    hidden = [layer for n in (64, 24, 20) for layer in (nn.Linear(n, 24 if n == 64 else 20), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(20, 10))


def conv(residual: bool = False) -> nn.Module:
    """Stride 2, depthwise, pointwise, dilation, pooling, and a residual sum if asked."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(1, 8, 3, stride=2, padding=1)
            self.depthwise, self.pointwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8), nn.Conv2d(8, 12, 1)
            self.same, self.head = nn.Conv2d(12, 12, 3, padding=1), nn.Linear(12, 10)

        def forward(self, x):
            h = self.pointwise(self.depthwise(self.stem(x).relu()).relu()).relu()
            return self.head(((self.same(h) + h) if residual else self.same(h)).relu().mean((2, 3)))

    return Net()


def uneven() -> nn.Module:
    """A pooling that leaves a border out."""
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24, 10))


def one_dimensional() -> nn.Module:
    return nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 6, 5, stride=2, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 32, 10))


ROWS = {
    "backprop-mlp": (lf.Backprop, mlp),
    "backprop-conv": (lf.Backprop, conv),
    "backprop-1d": (lf.Backprop, one_dimensional),
    "backprop-uneven": (lf.Backprop, uneven),
    "local_loss-mlp": (lf.LocalLoss, mlp),
    "local_loss-conv": (lf.LocalLoss, conv),
    "direct_feedback-mlp": (lf.DirectFeedback, mlp),
    "direct_feedback-conv": (lambda: lf.DirectFeedback(batch_norm="freeze"), conv),
    "direct_feedback-own": (lambda: lf.DirectFeedback(positions="own", batch_norm="freeze"), conv),
    "local_loss-1d": (lf.LocalLoss, one_dimensional),
    "sparse-channels": (lambda: lf.SparseUpdate({"same": 0.5, "head": 1.0}), conv),
    "backprop-residual": (lf.Backprop, lambda: conv(residual=True)),
    "sparse-residual": (lambda: lf.SparseUpdate({"same": 1.0, "head": 1.0}), lambda: conv(residual=True)),
    "forward_forward-mlp": (lambda: lf.ForwardForward(head="layers"), deep),
    "forward_forward-own": (lambda: lf.ForwardForward(loss="symmetric", goodness="sum", sharpness=0.1), mlp),
    "forward_forward-conv": (lambda: lf.ForwardForward(label="pattern", head="layers"), conv),
    "pepita-mlp": (lambda: lf.Pepita(second_pass="tangent", feedback_scale=0.5), deep),
    "pepita-conv": (lambda: lf.Pepita(second_pass="tangent", recompute=True), conv),
    "zeroth_order-mlp": (lambda: lf.ZerothOrder(["1", "3"], scale=0.01), mlp),
    "zeroth_order-conv": (lambda: lf.ZerothOrder(["depthwise", "same", "head"], scale=0.03, samples=3), conv),
    "sparse-biases": (lambda: lf.SparseUpdate("biases"), conv),
}


def made(row: str, momentum: float, steps: int, batch: int = 4):
    """Model, program, checked program, sources, batches of digits."""
    from lightning_fwd.data import DriftDataModule

    x, y = DriftDataModule("digits", seed=0).tensors("train")
    x = x.reshape(-1, 1, 8, 8)
    torch.manual_seed(0)
    method, net = (part() for part in ROWS[row])
    model = lf.rewrite(net, IntegerRule(method, lf.Integer()), x[:batch])
    model.method.rate = Rate(0.1, momentum)
    batches = [(x[k * batch : (k + 1) * batch], y[k * batch : (k + 1) * batch]) for k in range(steps)]
    program = build_integer(model, batches[0])
    checked, written = translate(program.data)
    return model, program, checked, written.files, batches


QUICK = [("sparse-residual", 0.9), ("zeroth_order-conv", 0.0)]
EVERY = [(row, momentum) for row in ROWS for momentum in ((0.0,) if row.startswith("zeroth_order") else (0.0, 0.9))]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in EVERY if case not in QUICK)]


@pytest.mark.parametrize(("row", "momentum"), CASES)
def test_c_on_this_machine_has_the_bits_of_python(row, momentum):
    model, program, checked, sources, batches = made(row, momentum, steps=20)
    check, learned = check_integer(program, checked, sources, model, batches, batches[0])
    assert check.steps == 20 and any(learned)


def test_a_kernel_that_strays_by_a_bit_is_told():
    model, program, checked, sources, batches = made("backprop-mlp", 0.0, steps=2)
    sources["lfwd_model.c"] = sources["lfwd_model.c"].replace("lfwd_int_next(", "(void)(")
    with pytest.raises(ExportError, match="differ"):
        check_integer(program, checked, sources, model, batches, batches[0])


def test_the_reference_leaves_the_model_as_it_was():
    model, _, _, _, batches = made("backprop-mlp", 0.9, steps=3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    reference_run(model, list(integer_calls(model, batches)), batches[0])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


M3 = BOARDS["mps2-an385"]
CORES = {
    "m0+": replace(M3, cpu="Cortex-M3 running code for the Cortex-M0+", flags=("-mcpu=cortex-m0plus",)),
    "m3": M3,
    "m4": BOARDS["mps2-an386"],
    "m7": BOARDS["mps2-an500"],
    "m55": BOARDS["mps3-an547"],
}


def boards_agree(row: str, momentum: float, steps: int, cores, folder) -> None:
    """Every weight after so many steps on digits: Python, this machine, and each core."""
    model, program, checked, sources, batches = made(row, momentum, steps)
    check, learned = check_integer(program, checked, sources, model, batches, batches[0])
    write_sources(sources, folder)
    for core in cores:
        assert run_on_board(folder, CORES[core], checked, board_calls(check)).weights == learned, core


@pytest.mark.board
@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_boards_have_the_bits_of_python_over_200_steps(row, emulator, tmp_path):
    boards_agree(row, 0.0 if row.startswith("zeroth_order") else 0.9, 200, CORES, tmp_path)


@pytest.mark.board
@pytest.mark.parametrize(("row", "core"), [("sparse-channels", "m0+"), ("local_loss-mlp", "m4"), ("sparse-channels", "m55")])
def test_a_board_has_the_bits_of_python_over_a_few_steps(row, core, emulator, tmp_path):
    boards_agree(row, 0.9 if core == "m4" else 0.0, 6, [core], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("train", [{"classifier": 1.0}, {"block3.conv2": 0.25, "classifier": 1.0}], ids=["head", "part"])
def test_the_ledger_is_what_the_program_plans(train):
    x, y = torch.rand(1, 3, 32, 32), torch.tensor([1])
    model = lf.rewrite(ResNet8().eval(), IntegerRule(lf.SparseUpdate(train), lf.Integer(room=1)), x)
    planned = sum(shipped_ram(translate(build_integer(model, (x, y)).data)[1]).values())
    told = price_integers(model.method.step(model, x, y), model).peak_ram_bytes
    assert told <= planned < 1.002 * told


@pytest.mark.board
@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="needs arm-none-eabi-gcc")
def test_nothing_of_a_step_for_the_m0_plus_is_a_float(tmp_path):
    """Linked with all that it calls, the step has no floating-point helper of the compiler in it."""
    *_, sources, _ = made("sparse-channels", 0.9, steps=1)
    write_sources(sources, tmp_path)
    (tmp_path / "main.c").write_text(
        '#include "lfwd_model.h"\nstatic int8_t x[1 << 12]; static int64_t y[64]; static int32_t rate[3], z[4096]; static int8_t f[1];\n'
        "int main(void) { lfwd_init(); lfwd_train_step(x, y, rate, z, f); lfwd_forward(x, z, f); return 0; }\n"
        "void _exit(int code) { (void)code; for (;;) {} }\n"
    )
    files = [tmp_path / "main.c", tmp_path / "lfwd_model.c", *sorted((tmp_path / "kernels").glob("*.c"))]
    command = ["arm-none-eabi-gcc", "-mcpu=cortex-m0plus", "-mthumb", "-O2", "-std=c99", "-ffunction-sections", "-fdata-sections"]
    command += [
        "-Wno-overlength-strings",
        f"-I{tmp_path}",
        f"-I{tmp_path / 'kernels'}",
        *map(str, files),
        "--specs=nano.specs",
        "--specs=nosys.specs",
    ]
    subprocess.run([*command, "-Wl,--gc-sections", "-lm", "-o", str(tmp_path / "step.elf")], check=True, capture_output=True)
    listed = subprocess.run(["arm-none-eabi-nm", str(tmp_path / "step.elf")], check=True, capture_output=True, text=True).stdout
    symbols = [line.split()[-1] for line in listed.splitlines()]
    assert "lfwd_train_step" in symbols
    floats = [s for s in symbols if s.startswith(("__aeabi_f", "__aeabi_d", "__aeabi_i2", "__aeabi_ui2", "__aeabi_l2f", "__aeabi_l2d"))]
    assert [s for s in floats if not s.startswith("__aeabi_div0")] == []
