"""The C that leaves the house: strict, sanitised, checked by cppcheck, built by its own Makefile and CMakeLists, self-contained."""

import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from kernel_calls import call
from lightning_fwd_export.check import example_batches
from lightning_fwd_export.generate_c import CSRC
from lightning_fwd_export.host.runtime import HostProgram, compiler
from tiny_exports import tiny

import lightning_fwd as lf
from lightning_fwd.cost import step_cost
from lightning_fwd.methods.pepita.feedback import feedback_matrix

METHOD = lf.Pepita(feedback="regenerated")


@pytest.fixture(scope="module")
def code(exported):
    program, _, out = exported("conv", METHOD, steps=5)
    return program, out / "c"


MAIN = """
#include <stdio.h>
#include "lfwd_model.h"
int main(void)
{
    static float x[LFWD_TRAIN_STEP_IN0], loss[1], logits[LFWD_TRAIN_STEP_OUT1], got[LFWD_WEIGHTS_BYTES / 4];
    static int64_t y[LFWD_TRAIN_STEP_IN1];
    lfwd_init();
    while (fread(x, sizeof x, 1, stdin) == 1 && fread(y, sizeof y, 1, stdin) == 1) RUN_STEP;
    lfwd_get_weights((uint8_t *)got);
    return fwrite(got, sizeof got, 1, stdout) != 1;
}
"""


STRICT = "-std=c99 -g -Wall -Wextra -Werror -Wconversion".split()


def weights_after_five_steps(code, work, flags):
    """Of a program of its own, built with these flags, and of the host runtime."""
    program, folder = code
    host, (_, batch) = HostProgram(program.data), tiny("conv", METHOD)
    takes_target = host.methods["train_step"].metadata.num_inputs() == 2
    text = MAIN.replace("RUN_STEP", "lfwd_train_step(x, y, loss, logits)" if takes_target else "lfwd_train_step(x, loss, logits)")
    (work / "main.c").write_text(text.replace("LFWD_TRAIN_STEP_IN1", "LFWD_TRAIN_STEP_IN1" if takes_target else "3"))
    sources = [folder / "lfwd_model.c", *sorted((folder / "kernels").glob("*.c")), work / "main.c"]
    include = [f"-I{folder}", f"-I{folder / 'kernels'}"]
    subprocess.run([compiler("gcc"), *STRICT, *flags.split(), *include, *map(str, sources), "-lm", "-o", str(work / "main")], check=True)
    samples = b""
    for x, y in example_batches(batch, 4, 5):
        host.run("train_step", *((x, y) if takes_target else (x,)))
        samples += x.numpy().tobytes() + y.numpy().tobytes()
    done = subprocess.run([str(work / "main")], input=samples, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return np.frombuffer(done.stdout, "<f4"), torch.cat([w.flatten() for w in host.run("get_weights")]).numpy()


def test_address_and_undefined_behaviour_sanitizers_find_nothing(code, tmp_path):
    got, expected = weights_after_five_steps(code, tmp_path, "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all")
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_optimised_across_files_it_computes_the_same_bits(code, tmp_path):
    """The arenas are bytes that are read as other types: with -flto a compiler sees that, and may only be let by -fno-strict-aliasing."""
    plain, _ = weights_after_five_steps(code, tmp_path, "-O1")
    optimised, _ = weights_after_five_steps(code, tmp_path, "-O3 -flto=auto -fno-strict-aliasing")
    assert plain.tobytes() == optimised.tobytes()
    for file in ("Makefile", "CMakeLists.txt", "lfwd_model.c"):
        assert "-fno-strict-aliasing" in (code[1] / file).read_text()


def test_functions_say_what_they_take_and_give(code):
    header = (code[1] / "lfwd_model.h").read_text()
    assert re.search(
        r"lfwd_train_step\(const float input\[\d+\], const int64_t target\[3\], float loss\[1\], float logits\[12\]\);", header
    )
    assert re.search(r"lfwd_forward\(const float input\[\d+\], float logits\[12\]\);", header)


def test_cppcheck_finds_nothing(code):
    if shutil.which("cppcheck") is None:
        pytest.skip("cppcheck is not installed")
    folder = code[1]
    command = [
        "cppcheck",
        "--std=c99",
        "--enable=warning,performance,portability",
        "--error-exitcode=1",
        "--inline-suppr",
        "--quiet",
        f"-I{folder}",
        f"-I{folder / 'kernels'}",
        str(folder / "lfwd_model.c"),
        str(folder / "kernels"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("build", [["make", "-s"], ["cmake", "-S", ".", "-B", "build"]], ids=["make", "cmake"])
def test_its_own_build_files(code, tmp_path, build):
    if shutil.which(build[0]) is None:
        pytest.skip(f"{build[0]} is not installed")
    folder = tmp_path / "c"
    shutil.copytree(code[1], folder)
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    if build[0] == "cmake":
        subprocess.run(["cmake", "--build", "build"], cwd=folder, check=True, capture_output=True)
    assert list(folder.rglob("liblfwd.a"))


def test_no_heap_no_library_beyond_memory_and_mathematics(code, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(code[1], folder)
    subprocess.run(["make", "-s", "OPTIMISE=-O1 -fno-pie"], cwd=folder, check=True)  # as on a device: no table needs relocation
    symbols = subprocess.run(["nm", "liblfwd.a"], cwd=folder, check=True, capture_output=True, text=True).stdout.splitlines()
    defined = {line.split()[-1] for line in symbols if re.search(r" [TtDdBbRr] ", line)}
    undefined = {line.split()[-1] for line in symbols if " U " in line} - defined
    from_libc = {"memcpy", "memset", "memmove", "memcmp", "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_", "__memcpy_chk", "__memset_chk"}
    mathematics = {f"{n}f" for n in "exp expm1 log log1p sqrt tanh erf sin cos floor ceil pow fmod nearbyint".split()}
    assert undefined <= from_libc | mathematics, undefined - from_libc - mathematics
    assert not {line.split()[-1] for line in symbols if re.search(r" [Dd] ", line)}  # constants in Flash: nothing initialised in RAM


def test_feedback_from_its_seed_is_the_matrix_bit_for_bit(csrc):
    """Unit errors read F's columns out of the kernel."""
    n_in, classes = 37, 5
    for seed in (0, 1, 123456, 2**31 - 1):
        expected = feedback_matrix(seed, n_in, classes, 0.0123)
        out = torch.empty(classes, n_in)
        import ctypes

        call(
            csrc.lfwd_modulate_from_seed_f32,
            torch.zeros(classes, n_in),
            torch.eye(classes),
            classes,
            n_in,
            classes,
            ctypes.c_int64(seed),
            0.0123,
            out,
        )
        assert torch.equal(out.T.contiguous(), expected)


def test_packed_masks_and_partial_updates(csrc):
    from kernel_calls import Axis

    for count in (1, 8, 29):
        x, grad = torch.randn(count), torch.randn(count)
        bits = torch.empty(-(-count // 8), dtype=torch.uint8)
        call(csrc.lfwd_positive_bits_f32, x, count, bits)
        assert torch.equal(bits, torch.ops.lfwd.positive_bits(x))
        out = torch.empty(count)
        call(csrc.lfwd_where_bits_f32, grad, bits, count, out)
        assert torch.equal(out, torch.where(x > 0, grad, 0.0))
    state, part, index = torch.randn(3, 5, 2), torch.randn(3, 2, 2), torch.tensor([1, 4])
    expected = state.clone()
    expected[:, index] = 0.9 * state[:, index] - 0.1 * part
    call(csrc.lfwd_sgd_part_f32, state, Axis(3, 5, 2), part, index, 2, 0.1, 0.9)
    torch.testing.assert_close(state, expected)


def test_kernels_are_shipped_as_they_are_tested(code):
    for source in CSRC.glob("*.[ch]"):
        licence, _, text = (code[1] / "kernels" / source.name).read_text().partition("\n")
        assert "SPDX" in licence and text == source.read_text()


def test_an_operator_with_an_out_variant_costs_what_it_did():
    """The exporter gives operators of the library another overload; the ledger knows them by name."""
    model, batch = tiny("mlp", lf.Pepita(feedback="regenerated"))
    x = batch[0]
    assert step_cost(model, batch).macs_by_phase["projection"] == x.numel() * model.num_classes
