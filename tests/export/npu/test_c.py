"""The exported C with the simulator behind ``lfwd_npu_invoke``: the records and the head of the Python loop, bit for bit."""

import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from host_c import BATCH, STEPS, HostC, flags, stepping
from lightning_fwd_export import ExportError
from lightning_fwd_export.boards import BOARDS, missing_tools
from lightning_fwd_export.npu.board import run_on_board
from lightning_fwd_export.npu.learn import Guard
from lightning_fwd_export.npu.write_c import write_c

ARM = ("-mthumb", *BOARDS["mps3-an547"].flags)


TRAINED = ("head", "norms", "zeroth-order", "forward-forward")


@pytest.fixture(params=TRAINED)
def exported(request, tmp_path_factory):
    """The learner, its inputs, source statistics, the folder of its C, and what learns."""
    npu = request.getfixturevalue("trainer") if request.param == "norms" else request.getfixturevalue("learner")[0]
    folder, x = tmp_path_factory.mktemp("npu_c"), torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    source = npu.source_statistics(x)
    write_c(npu, source, folder, request.param)
    return npu, npu.store(0.6 * x + 0.3), source, folder, request.param


#: what learns, where the others say little more
FEW = ["head", "norms", *(pytest.param(train, marks=pytest.mark.slow) for train in ("zeroth-order", "forward-forward"))]


@pytest.mark.parametrize(("exported", "rate"), [*((train, 0.05) for train in TRAINED), ("norms", 3.0)], indirect=["exported"])
def test_the_c_learns_the_records_and_the_head_of_the_python_loop(exported, tmp_path, rate):
    """Also at a rate at which scales fall to the quarter that they keep."""
    npu, images, source, folder, train = exported
    c, compiled = HostC(npu, folder, tmp_path), bytes(npu.table)
    c.align(images)
    npu.adapt_statistics(images, source)
    head = npu.head(lr=rate, momentum=0.9, batch=BATCH, steps=STEPS)
    aligned, untrained, labels = bytes(npu.table), head.weight.copy(), np.random.default_rng(0).integers(0, head.bias.size, BATCH * STEPS)
    assert c.state(head)[0] == aligned != compiled

    c.train(rate, 0.9, images[: BATCH * STEPS], labels)
    step = stepping(npu, train, rate)
    for k in range(0, BATCH * STEPS, BATCH):
        step(head, images[k : k + BATCH], labels[k : k + BATCH])
    table, weight, bias = c.state(head)
    assert table == bytes(npu.table) and (table != aligned) == (train != "head")
    assert weight.tobytes() == head.weight.tobytes() and bias.tobytes() == head.bias.tobytes()
    assert not np.array_equal(weight, untrained)
    if train == "norms":
        assert any((norm.scale == norm.least).any() for norm in npu.norms.values()) == (rate > 1)
        assert all((norm.scale >= norm.least).all() for norm in npu.norms.values())
    if train == "forward-forward":
        assert np.array_equal(c.goodness(images[40], head.bias.size), step.__self__.goodness(images[40:41])[0])
    assert np.array_equal(c.predict(images[40], head.bias.size), head.logits(npu.features(images[40:41]))[0])


@pytest.mark.parametrize("exported", FEW, indirect=True)
def test_what_harms_is_taken_back_to_the_bit(exported, tmp_path):
    npu, images, source, folder, train = exported
    c, head = HostC(npu, folder, tmp_path), npu.head(0.05, 0.9, BATCH, STEPS)
    rng = np.random.default_rng(0)
    samples, held = images[: BATCH * STEPS], images[BATCH * STEPS :]
    right = head.logits(npu.features(held)).argmax(1)  # what it says before the drift is learned away
    outcomes = []
    for rate, labels, shift in [(0.5, rng.integers(0, head.bias.size, len(samples)), True), (0.01, np.zeros(len(samples), int), False)]:
        head, state = npu.head(rate, 0.9, BATCH, STEPS), c.state(head)
        head.weight[...], head.bias[...] = state[1], state[2]
        judged = right if shift else np.zeros(len(held), int)
        step = stepping(npu, train, rate)
        c.guard_begin(held, judged)
        guard = Guard(npu, head, held, judged)
        if shift:
            c.align(-1 - samples)
            npu.adapt_statistics(-1 - samples, source)
        c.train(rate, 0.9, samples, labels)
        for k in range(0, len(samples), BATCH):
            step(head, samples[k : k + BATCH], labels[k : k + BATCH])
        assert c.state(head)[0] == bytes(npu.table)
        verdict = guard.end()
        assert c.guard_end() == (verdict.kept, verdict.before, verdict.after, verdict.lost, verdict.won)
        table, weight, bias = c.state(head)
        assert table == bytes(npu.table) and weight.tobytes() == head.weight.tobytes() and bias.tobytes() == head.bias.tobytes()
        assert (table, weight.tobytes()) == (state[0], state[1].tobytes()) or verdict.kept
        outcomes.append(verdict.kept)
    assert outcomes == [False, True]


@pytest.mark.parametrize("exported", FEW, indirect=True)
def test_after_a_rollback_the_next_step_is_the_python_loops(exported, tmp_path):
    npu, images, _, folder, train = exported
    c, head, start = HostC(npu, folder, tmp_path), npu.head(3.0, 0.9, BATCH, STEPS), npu.state()
    held, labels = images[-16:], np.random.default_rng(0).integers(0, head.bias.size, BATCH)
    judged = head.logits(npu.features(held)).argmax(1)
    c.train(3.0, 0.9, images[:0], labels[:0])
    step = stepping(npu, train, 3.0)
    c.guard_begin(held, judged)
    guard = Guard(npu, head, held, judged)
    for _ in range(2):
        c.steps(images[:BATCH], labels)
        step(head, images[:BATCH], labels)
    if train != "forward-forward":  # it draws a wrong label per sample
        c.steps(images[:3], labels[:3])  # part of a batch is forgotten
    assert not guard.end().kept and not c.guard_end()[0]
    c.steps(images[BATCH : 2 * BATCH], labels)
    step(head, images[BATCH : 2 * BATCH], labels)
    table, weight, bias = c.state(head)
    assert table == bytes(npu.table) and weight.tobytes() == head.weight.tobytes() and bias.tobytes() == head.bias.tobytes()
    npu.restore(start)


def test_aligned_again_after_an_update_it_keeps_what_the_norms_learned(exported, tmp_path):
    """And tables of records that were written before follow: the next step is the Python loop's."""
    npu, images, source, folder, train = exported
    c, head, start = HostC(npu, folder, tmp_path), npu.head(0.5, 0.9, BATCH, STEPS), npu.state()
    labels = np.random.default_rng(0).integers(0, head.bias.size, BATCH)
    c.train(0.5, 0.9, images[:0], labels[:0])
    step = stepping(npu, train, 0.5)
    for k in range(0, 3 * BATCH, BATCH):
        c.steps(images[k : k + BATCH], labels)
        step(head, images[k : k + BATCH], labels)
        if train != "forward-forward":  # it draws a wrong label per sample
            c.steps(images[:3], labels[:3])  # part of a batch is forgotten
        c.align(-1 - images)
        npu.adapt_statistics(-1 - images, source)
        table, weight, bias = c.state(head)
        assert table == bytes(npu.table) and weight.tobytes() == head.weight.tobytes() and bias.tobytes() == head.bias.tobytes()
    if train == "forward-forward":
        assert np.array_equal(c.goodness(images[40], head.bias.size), step.__self__.goodness(images[40:41])[0])
    npu.restore(start)


@pytest.mark.parametrize("exported", FEW, indirect=True)
def test_a_guard_without_samples_refuses(exported, tmp_path):
    npu, images, _, folder, _ = exported
    c = HostC(npu, folder, tmp_path)
    assert c.guard_begin(images[:0], np.zeros(0, int)) == c.guard_begin(np.repeat(images[:1], 1025, 0), np.zeros(1025, int)) == -1
    assert c.guard_end() is None
    with pytest.raises(ValueError, match="held back"):
        Guard(npu, npu.head(0.05, 0.9, BATCH, STEPS), images[:0], np.zeros(0, int))


@pytest.mark.parametrize("exported", FEW, indirect=True)
def test_what_it_cannot_do_it_refuses_and_changes_nothing(exported, tmp_path):
    npu, images, _, folder, _ = exported
    assert HostC(npu, folder, tmp_path).hostile(images) == 0


SLOW = [pytest.param(train, marks=pytest.mark.slow) for train in ("head", "zeroth-order", "forward-forward")]


@pytest.mark.skipif(bool(missing_tools()), reason="the cross-compiler is not installed")
@pytest.mark.parametrize("exported", ["norms", *SLOW], indirect=True)
def test_on_an_emulated_cortex_m55_it_learns_the_records_of_the_python_loop(exported):
    npu, images, source, folder, train = exported
    report = run_on_board(npu, source, folder, images[: 2 * BATCH], BATCH, train=train)
    assert report.cpu == "Cortex-M55" and report.code_bytes > 1000
    assert 0 < report.predict_instructions < report.step_instructions
    assert report.update_instructions > 0 and report.align_instructions > 0


@pytest.mark.skipif(bool(missing_tools()), reason="the cross-compiler is not installed")
@pytest.mark.parametrize("exported", ["head"], indirect=True)
def test_a_board_that_finds_other_records_says_so(exported):
    npu, images, source, folder, train = exported
    model = folder / "lfwd_npu_model.c"
    lines = model.read_text().splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("static const float mean0[]")) + 1
    first = lines[at].split(",")[0]
    lines[at] = lines[at].replace(first, " 9.0f", 1)
    model.write_text("\n".join(lines))
    with pytest.raises(ExportError, match="exit code 7"):
        run_on_board(npu, source, folder, images[: 2 * BATCH], BATCH, train=train)


@pytest.mark.skipif(bool(missing_tools()), reason="the cross-compiler is not installed")
def test_it_builds_for_a_cortex_m55_with_the_example_for_arms_driver(exported, tmp_path):
    *_, folder, _ = exported
    declarations = tmp_path / "ethosu_driver.h"  # the functions that the example calls, as the driver's header declares them
    declarations.write_text(
        "#include <stddef.h>\n#include <stdint.h>\nstruct ethosu_driver *ethosu_reserve_driver(void);\n"
        "void ethosu_release_driver(struct ethosu_driver *drv);\n"
        "int ethosu_invoke_v3(struct ethosu_driver *drv, const void *custom_data_ptr, const int custom_data_size, uint64_t *const "
        "base_addr,\n"
        "                     const size_t *base_addr_size, const int num_base_addr, void *user_arg);\n"
    )
    for source in folder.glob("*.c"):
        arguments = [
            *ARM,
            *flags(folder),
            "-O2",
            f"-I{folder}",
            f"-I{tmp_path}",
            "-c",
            str(source),
            "-o",
            str(tmp_path / f"{source.stem}.o"),
        ]
        subprocess.run(["arm-none-eabi-gcc", *arguments, '-DLFWD_NPU_RAM=__attribute__((section(".npu_sram")))'], check=True)
    sections = subprocess.run(["arm-none-eabi-objdump", "-ht", str(tmp_path / "lfwd_npu_records.o")], check=True, capture_output=True)
    assert re.search(r"\.npu_sram\s+[0-9a-f]+ lfwd_npu$", sections.stdout.decode(), re.MULTILINE)


@pytest.mark.skipif(shutil.which("cppcheck") is None, reason="cppcheck is not installed")
@pytest.mark.parametrize("exported", FEW, indirect=True)
def test_a_static_checker_finds_nothing(exported):
    *_, folder, _ = exported
    checks = "--enable=warning,portability,performance --error-exitcode=1 --inline-suppr --quiet --suppress=missingIncludeSystem".split()
    found = subprocess.run(["cppcheck", *checks, f"-I{folder}", str(folder)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
