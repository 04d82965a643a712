"""An adaptation as one library: the device does what ``lf.adapt(firmware=True)`` does on the host, verdict by verdict."""

import copy
import math
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from library_on_host import STRICT, HostLibrary, build, includes
from lightning_fwd_export import export_library
from lightning_fwd_export.boards import board
from lightning_fwd_export.host.runtime import compiler
from lightning_fwd_export.library.on_board import adapt_on_board
from lightning_fwd_export.library.packages import PACKAGES, write_package
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.adaptation.draws import Buffer

SHAPE, CLASSES = (3, 4, 8), 4
FIRMWARE = lf.Firmware(samples=60, patience=2)
STAGES = [
    "statistics",
    lf.Stage("sparse_update", {"train": "head"}, lr=0.05, epochs=12, batch_size=4, name="head"),
    lf.Stage("sparse_update", {"train": 2}, lr=1e4, epochs=4, batch_size=4, momentum=0.0, name="wild"),
    lf.Stage("local_loss", {"batch_norm": "freeze"}, lr=0.02, epochs=4, batch_size=8, momentum=0.5),
]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU()
        self.flatten, self.drop, self.head = nn.Flatten(), nn.Dropout(0.2), nn.Linear(48, CLASSES)

    def forward(self, x):
        return self.head(self.drop(self.flatten(self.relu(self.norm(self.conv(x))))))


def samples(count: int, seed: int = 0, drift: bool = False, shape: tuple[int, ...] = SHAPE):
    """Clusters: each class a pattern and noise. Drift: fainter, darker, and two patterns change their meaning."""
    patterns = torch.randn(CLASSES, *shape, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES, (count,), generator=generator)
    x = patterns[y] + 2.2 * torch.randn(count, *shape, generator=generator)
    return (0.4 * x - 1.0, torch.tensor([0, 1, 3, 2])[y]) if drift else (x, y)


def trained(net):
    """At home, on samples without drift."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9)
    x, y = samples(128, seed=1)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return trained(Net())


@pytest.fixture(scope="module")
def stages(net, tmp_path_factory):
    """Alignment stands last: what is drawn for the others is as it was without it."""
    moments = lf.source_moments(net, [samples(200, seed=1)[0]], tmp_path_factory.mktemp("home") / "net", patches=0)
    return [*STAGES, lf.Stage(lf.Alignment(moments, strength=1.0, samples=40), batch_size=1)]


@pytest.fixture(scope="module")
def exported(net, stages, tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    return export_library(net, stages, samples(2)[0], folder, firmware=FIRMWARE, seed=3, steps=3), folder


@pytest.fixture(scope="module")
def library(exported, tmp_path_factory):
    return HostLibrary(exported[1] / "c", tmp_path_factory.mktemp("host"))


def expected(net, stages, data, **settings):
    return lf.adapt(net, stages, data, **{"firmware": FIRMWARE, "seed": 3} | settings)


def require_equal(reports, done):
    """The device's reports and the host's."""
    for report, stage in zip(reports, done.stages, strict=True):
        assert (report.kept, report.judged_on, report.epochs) == (stage.kept, stage.judged_on, stage.epochs), stage
        for got, wanted in ((report.before, stage.before), (report.after, stage.after)):
            assert got == pytest.approx(wanted, rel=1e-4, abs=1e-6) or not math.isfinite(wanted)


def require_weights(net, weights, exported, done, tolerance=1e-5):
    """The device's weights, put into the plain network, and the host's."""
    got = copy.deepcopy(net)
    lf.load_device_weights(got, weights, exported[1])
    wanted = done.network.state_dict()
    for name, value in got.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.allclose(value, wanted[name], rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_the_device_does_what_the_host_predicts(net, stages, exported, library, count):
    x, y = samples(count, seed=2, drift=True)
    library.begin()
    library.add_all(x, y)
    done, reports = expected(net, stages, (x, y)), library.adapt()
    require_equal(reports, done)
    require_weights(net, library.weights, exported, done)
    assert done.stages[1].kept and done.stages[1].after < done.stages[1].before
    assert "wild" in done.rolled_back and reports[2].outcome in ("rolled back", "not finite")


def test_what_harms_is_rolled_back_to_the_byte(net, stages, library):
    """At home recomputed statistics of shifted samples harm the labelled ones."""
    x, y = samples(30, seed=4)
    more = 10 + 5 * samples(30, seed=5)[0]
    library.begin()
    before = library.weights
    library.add_all(x, y)
    library.add_all(more)
    done = expected(net, stages, (x, y), unlabelled=more)
    reports = library.adapt()
    require_equal(reports, done)
    assert not reports[0].kept and not reports[2].kept and reports[0].lost > reports[0].won
    assert reports[4].outcome == "rolled back" and reports[4].epochs == 1
    if not any(report.kept for report in reports):
        assert library.weights == before


def test_rounds_begin_with_the_weights_as_shipped(library):
    """Adapting twice is adapting once: a map of what is mapped already would go on and on."""
    x, _ = samples(60, seed=2, drift=True)
    left = []
    for times in (1, 2):
        library.begin()
        library.add_all(x)
        outcomes = [[report.outcome for report in library.adapt()] for _ in range(times)][-1]
        left.append(library.weights)
    once, twice = (np.frombuffer(weights, "<f4") for weights in left)
    assert np.allclose(once, twice, rtol=1e-5, atol=1e-5) and outcomes.count("kept unguarded") == 2


def test_without_labels_stages_without_labels_run(net, stages, exported, library):
    x, _ = samples(40, seed=6, drift=True)
    library.begin()
    library.add_all(x)
    reports = library.adapt()
    assert [report.outcome for report in reports] == ["kept unguarded", *["no labels"] * 3, "kept unguarded"]
    done = lf.adapt(net, [stages[0], stages[-1]], x, firmware=FIRMWARE, seed=3)  # a round is a pass: its order is of no account
    require_weights(net, library.weights, exported, done)
    assert reports[0].before == pytest.approx(done.stages[0].before, rel=1e-4) and reports[0].judged_on == 40
    library.begin()
    assert {report.outcome for report in library.adapt()} == {"too few samples", "no labels"}  # no sample at all


def test_early_stopping_keeps_the_best_epoch(net, stages, exported, library):
    x, y = samples(60, seed=7, drift=True)
    y[::3] = (y[::3] + 1) % CLASSES  # wrong labels: what is learned by heart harms
    library.begin()
    library.add_all(x, y)
    library.settings.patience = 1
    try:
        reports = library.adapt()
    finally:
        library.settings.patience = FIRMWARE.patience
    done = expected(net, stages, (x, y), firmware=lf.Firmware(samples=60, patience=1))
    require_equal(reports, done)
    require_weights(net, library.weights, exported, done)
    assert reports[1].epochs < 12


def test_the_buffer_is_balanced_and_draws_as_the_host_s(net, library):
    rng, room = random.Random(0), FIRMWARE.samples
    labels = [rng.choices([0, 1, 2, 3, -1], [80, 10, 5, 1, 4])[0] for _ in range(900)]
    library.begin(seed=11)
    buffer = Buffer(room, CLASSES, 11)
    x = torch.zeros(SHAPE)
    for label in labels:
        slot = buffer.add(label)
        assert library.add(x, label) == (-1 if slot is None else slot)
    counts = [library.c.lfwd_samples_of(label) for label in range(-1, CLASSES)]
    assert counts == [buffer.labels.count(label) for label in range(-1, CLASSES)] and sum(counts) == room
    seen = [labels.count(label) for label in range(-1, CLASSES)]
    assert all(count >= min(n, room // 5 - 2) for count, n in zip(counts, seen, strict=True)), (counts, seen)
    assert library.add(x, CLASSES) == -1 and library.add(x, -2) == -1


def test_a_buffer_of_bytes(net, stages, exported, tmp_path):
    x, y = samples(60, seed=8, drift=True)
    small = HostLibrary(exported[1] / "c", tmp_path, ["-DLFWD_SAMPLES_INT8"])
    small.add_all(x, y)
    done = expected(net, stages, (x, y), firmware=lf.Firmware(samples=60, sample_type="int8"))
    require_equal(small.adapt(), done)
    require_weights(net, small.weights, exported, done)


MAIN = """
#include "lfwd_adapt.h"
#include "lfwd_store.h"
static uint32_t state = 1;
static uint32_t draw(void) { return state = state * 1664525u + 1013904223u; }
int main(void)
{
    lfwd_adapt_settings settings = LFWD_ADAPT_SETTINGS;
    lfwd_stage_report reports[LFWD_STAGES];
    float input[LFWD_INPUT];
    for (int trial = 0; trial < 12; trial++) {
        const uint32_t count = draw() % 150u;
        lfwd_init();
        lfwd_samples_clear(draw());
        settings.held_back = trial % 4 == 0 ? 0 : draw() >> 16;
        settings.patience = (uint16_t)(draw() >> 30);
        for (uint32_t i = 0; i < count; i++) {
            for (int k = 0; k < LFWD_INPUT; k++) input[k] = (float)(int32_t)draw() * (trial == 5 ? 1e30f : 1e-9f);
            (void)lfwd_samples_add(input, (int32_t)(draw() >> 29) - 3);
        }
        (void)lfwd_adapt(&settings, reports);
        for (int s = 0; s < LFWD_STAGES; s++)
            if (lfwd_outcome_text(reports[s].outcome)[0] == 'u') return 1;
    }
    return lfwd_selftest();
}
"""


def test_sanitizers_find_nothing(exported, tmp_path):
    code = exported[1] / "c"
    (tmp_path / "main.c").write_text(MAIN)
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    for more in ([], ["-DLFWD_SAMPLES_INT8", "-DLFWD_SAMPLES=7"]):
        program = build(code, tmp_path / "main", flags, ["-DLFWD_SELFTEST", *more], [str(tmp_path / "main.c")])
        assert subprocess.run([program]).returncode == 0


ZEPHYR = """
cmake_minimum_required(VERSION 3.16)
project(app C)
set(CONFIG_RECOVER y)
function(zephyr_library_named name)
endfunction()
function(zephyr_include_directories folder)
  if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/lfwd_adapt.h)
    message(FATAL_ERROR "no header")
  endif()
endfunction()
function(zephyr_library_compile_options)
endfunction()
function(zephyr_library_sources)
  foreach(file ${ARGN})
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "no ${file}")
    endif()
  endforeach()
  message(NOTICE "${ARGC} sources")
endfunction()
add_subdirectory(FOLDER zephyr)
"""
CORES = [
    ["-mcpu=cortex-m0plus"],
    ["-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"],
    ["-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"],
    ["-mcpu=cortex-m7", "-mfpu=fpv5-d16", "-mfloat-abi=hard"],
    ["-mcpu=cortex-m55", "-mfloat-abi=hard"],
]


@pytest.mark.board
@pytest.mark.parametrize("core", CORES, ids=lambda core: core[0].removeprefix("-mcpu=cortex-"))
def test_no_warnings(exported, tmp_path, emulator, core):
    code = exported[1] / "c"
    for file in sorted(code.glob("*.c")):
        command = ["arm-none-eabi-gcc", *core, "-mthumb", "-O2", *STRICT, *includes(code), "-c", str(file), "-o", str(tmp_path / "x.o")]
        subprocess.run(command, check=True)


def test_the_loop_s_memory_is_as_reported(exported, tmp_path):
    report, folder = exported
    code, measured = folder / "c", 0
    for name in ("lfwd_adapt", "lfwd_samples"):
        target = str(tmp_path / f"{name}.o")
        subprocess.run([compiler("gcc"), *STRICT, "-O2", *includes(code), "-c", str(code / f"{name}.c"), "-o", target], check=True)
        lines = [line.split() for line in subprocess.run(["nm", "-S", target], capture_output=True, text=True).stdout.splitlines()]
        measured += sum(int(words[1], 16) for words in lines if len(words) == 4 and words[2] in "bBdD")
    assert 0 <= measured - report.ram_bytes["adapt"] <= 16


@pytest.mark.board
def test_an_emulated_m4_does_the_same(net, stages, exported, emulator):
    x, y = samples(60, seed=2, drift=True)
    test, truth = samples(50, seed=9, drift=True)
    ran = adapt_on_board(exported[1] / "c", board("mps2-an386"), x, y, test, timeout=300)
    done = expected(net, stages, (x, y))
    require_equal(ran.stages, done)
    require_weights(net, ran.weights, exported, done)
    assert ran.stages[2].outcome in ("rolled back", "not finite")
    with torch.no_grad():
        assert torch.allclose(ran.before, net(test), atol=1e-4) and torch.allclose(ran.after, done.network(test), atol=1e-4)
    before, after = ((logits.argmax(1) == truth).float().mean() for logits in (ran.before, ran.after))
    assert after > before + 0.1


@pytest.mark.board
@pytest.mark.parametrize("kind", PACKAGES)
def test_every_package_holds_what_compiles(exported, tmp_path, emulator, kind):
    folder = tmp_path / kind
    write_package(kind, exported[1] / "c", folder, name="recover")
    (folder / "src" / "old.c").write_text("#error stale")
    write_package(kind, exported[1] / "c", folder, name="recover")
    named = {path.name for path in (folder / "src").iterdir()}
    assert {"lfwd_adapt.c", "lfwd_model.h", "sgd_f32.c", "lfwd_random.h"} <= named and "old.c" not in named
    own = [str(folder / "src" / file) for file in ("lfwd_adapt.c", "lfwd_model.c", "sgd_f32.c")]
    command = [
        "arm-none-eabi-gcc",
        "-mcpu=cortex-m4",
        "-mthumb",
        "-O1",
        f"-I{folder / 'src'}",
        "-c",
        *(str(folder / "src" / f) for f in own),
    ]
    subprocess.run(command, check=True, cwd=tmp_path)
    with pytest.raises(lf.LightningFwdError, match="holds something else"):
        write_package(kind, exported[1] / "c", exported[1])
    if kind == "arduino":
        lines = dict(line.split("=", 1) for line in (folder / "library.properties").read_text().splitlines())
        assert {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures"} <= lines.keys()
        assert set(lines["includes"].split(",")) <= named
    elif kind == "zephyr":
        module = yaml.safe_load((folder / "zephyr" / "module.yml").read_text())
        assert (folder / module["build"]["kconfig"]).is_file() and (folder / module["build"]["cmake"] / "CMakeLists.txt").is_file()
        (tmp_path / "CMakeLists.txt").write_text(ZEPHYR.replace("FOLDER", str(folder / "zephyr")))
        if shutil.which("cmake"):
            made = subprocess.run(["cmake", "-B", "b"], cwd=tmp_path, check=True, capture_output=True, text=True).stderr
            assert f"{len([name for name in named if name.endswith('.c')])} sources" in made
    elif shutil.which("xmllint"):
        schema = Path(__file__).parent / "schema" / "PACK.xsd"
        subprocess.run(["xmllint", "--noout", "--schema", str(schema), str(*folder.glob("*.pdsc"))], check=True, capture_output=True)


@pytest.mark.parametrize(
    "stages, said",
    [
        ([lf.Stage("sparse_update", head="blocks")], "give them to the network before"),
        ([lf.Stage("sparse_update", lr=[0.1, 0.2])], "give one rate"),
        ([lf.Alignment("home")], r"give strength=\.\.\. \(such as 1\.0\) and patches=\.\.\. \(such as 3\)"),
        ([lf.Alignment(class_mix=[1, 1, 1, 1])], "its first round counts labels(?s:.*)leave class_mix out: norms='relative' needs none"),
        ([lf.Stage("local_loss", {"batch_norm": "fold"})], "batch_norm='freeze'"),
        ([lf.Stage("local_loss", {"batch_norm": "freeze", "prediction": "last"})], "predicts by other means"),
        (["sparse_update", "sparse_update"], "two stages are called sparse_update"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_part_of_a_library_is_refused(net, tmp_path, stages, said):
    with pytest.raises(lf.LightningFwdError, match=said):
        export_library(net, stages, samples(2)[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()
