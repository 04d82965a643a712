"""One adaptation in integers as one library: the guard, the buffer and every step have the bits of ``lf.adapt`` on the host."""

import copy
import ctypes
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from library_on_host import STRICT, HostLibrary, build, includes
from lightning_fwd_export import export_library
from lightning_fwd_export.boards import BOARDS, board
from lightning_fwd_export.library.on_board import OUTCOMES, StageReport, adapt_on_board
from test_library import CLASSES, CORES, MAIN, Net, samples, trained
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.adaptation.guard import SCALES
from lightning_fwd.data.inputs import InputForm
from lightning_fwd.integer.judging import NATS, entropies, losses

FIRMWARE = lf.Firmware(samples=60, patience=2, precision="integer")
STAGES = [
    lf.Stage("sparse_update", {"train": "head"}, lr=0.05, epochs=12, batch_size=4, name="head"),
    lf.Stage("sparse_update", {"train": 2}, lr=1e3, epochs=4, batch_size=4, momentum=0.0, name="wild"),
    lf.Stage("local_loss", {"batch_norm": "freeze"}, lr=0.02, epochs=4, batch_size=8, momentum=0.5),
    lf.Stage("zeroth_order", {"scale": 0.03, "samples": 2}, lr=0.05, epochs=2, batch_size=4, momentum=0.0),
]


class Report(ctypes.Structure):
    _fields_ = [
        ("outcome", ctypes.c_int),
        *((name, ctypes.c_int32) for name in ("before", "after")),
        *((name, ctypes.c_uint16) for name in ("judged_on", "epochs", "lost", "won")),
    ]


class IntegerLibrary(HostLibrary):
    """The same in integers: inputs are int8, losses 2**-16 nats."""

    def add(self, x: torch.Tensor, label: int = -1) -> int:
        exponent = int(self.header["LFWD_INPUT_EXPONENT"])
        values = np.ascontiguousarray((x * 2.0**exponent).round().clamp(-127, 127).numpy().astype("i1"))
        return self.c.lfwd_samples_add(ctypes.c_void_p(values.ctypes.data), label)

    def adapt(self) -> list[StageReport]:
        reports = (Report * self.stages)()
        self.c.lfwd_adapt(ctypes.byref(self.settings), reports)
        told = [(r.before / 65536, r.after / 65536, r.judged_on, r.epochs, r.lost, r.won) for r in reports]
        return [StageReport(OUTCOMES[r.outcome], *rest) for r, rest in zip(reports, told, strict=True)]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return trained(Net())


SOURCE = samples(80, seed=1)[0]


@pytest.fixture(scope="module")
def exported(net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("integers")
    more = {"firmware": FIRMWARE, "seed": 3, "steps": 3, "source": SOURCE, "form": InputForm("uint8")}
    return export_library(net, STAGES, samples(2)[0], folder, **more), folder


@pytest.fixture(scope="module")
def library(exported, tmp_path_factory):
    return IntegerLibrary(exported[1] / "c", tmp_path_factory.mktemp("host"))


def expected(net, data, **settings):
    return lf.adapt(net, STAGES, data, **{"firmware": FIRMWARE, "seed": 3, "source": SOURCE} | settings)


def require_equal(reports, done):
    for report, stage in zip(reports, done.stages, strict=True):
        assert (report.kept, report.judged_on, report.epochs) == (stage.kept, stage.judged_on, stage.epochs), stage
        assert report.before == pytest.approx(stage.before, abs=2e-5) and report.after == pytest.approx(stage.after, abs=2e-5)


def bytes_of(done):
    """What ``lfwd_get_weights`` must give, to the bit."""
    network = done.device_after
    return b"".join(np.ascontiguousarray(network.state[name].numpy()).tobytes() for name in network.stages.weights)


def test_losses_in_integers_are_those_in_float():
    generator = torch.Generator().manual_seed(0)
    logits = 8 * torch.randn(400, 10, generator=generator)
    y, q = torch.randint(0, 10, (400,), generator=generator), (logits * 2.0**12).round().int()
    wanted = torch.stack([F.cross_entropy(logits * scale, y) for scale in SCALES])
    assert torch.allclose(losses(q, 12, y, SCALES) * NATS / 400, wanted, rtol=1e-3, atol=1e-3)
    logs = logits.log_softmax(1)
    assert entropies(q, 12) * NATS / 400 == pytest.approx(-float((logs.exp() * logs).sum(1).mean()), rel=1e-2)
    assert losses(q, 12, y, SCALES).tolist() == [int(losses(q, 12, y, [scale])) for scale in SCALES]


@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_the_device_has_the_bits_of_the_host(net, library, count):
    x, y = samples(count, seed=2, drift=True)
    library.begin()
    library.add_all(x, y)
    done, reports = expected(net, (x, y)), library.adapt()
    require_equal(reports, done)
    assert library.weights == bytes_of(done)
    assert done.stages[0].kept and "wild" in done.rolled_back


def test_what_is_rolled_back_leaves_every_byte(net, library):
    x, y = samples(60, seed=7, drift=True)
    library.begin()
    before = library.weights
    library.add_all(x, (y + torch.arange(60) % 3 + 1) % CLASSES)
    reports = library.adapt()
    if not any(report.kept for report in reports):
        assert library.weights == before
    require_equal(reports, expected(net, (x, (y + torch.arange(60) % 3 + 1) % CLASSES)))


def test_without_labels_nothing_learns(net, library):
    library.begin()
    library.add_all(samples(20, seed=5)[0])
    before = library.weights
    assert {report.outcome for report in library.adapt()} == {"no labels"} and library.weights == before


def test_weights_come_back_into_the_plain_network(net, exported, library):
    x, y = samples(60, seed=2, drift=True)
    library.begin()
    library.add_all(x, y)
    library.adapt()
    got, done = copy.deepcopy(net), expected(net, (x, y))
    lf.load_device_weights(got, library.weights, exported[1])
    wanted = done.network.state_dict()
    assert all(torch.allclose(value.float(), wanted[name].float(), rtol=1e-6, atol=1e-6) for name, value in got.state_dict().items())
    assert not torch.equal(wanted["head.weight"], net.head.weight)


def test_another_rate_is_another_result(library):
    x, y = samples(60, seed=2, drift=True)
    results = []
    for rate in (None, (0, 0), None):
        library.begin()
        if rate:
            library.c.lfwd_set_rate_step_head(*rate)
        library.add_all(x, y)
        results.append(library.adapt()[0])
    assert results[0] == results[2] and results[1].outcome == "rolled back"


def test_sanitizers_find_nothing(exported, tmp_path):
    code = exported[1] / "c"
    main = MAIN.replace("float input", "lfwd_value input").replace(
        "(float)(int32_t)draw() * (trial == 5 ? 1e30f : 1e-9f)", "(int8_t)(draw() >> 24)"
    )
    (tmp_path / "main.c").write_text(main)
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    for more in ([], ["-DLFWD_SAMPLES=7"]):
        program = build(code, tmp_path / "main", flags, ["-DLFWD_SELFTEST", *more], [str(tmp_path / "main.c")])
        assert subprocess.run([program]).returncode == 0


@pytest.mark.board
@pytest.mark.parametrize("core", CORES, ids=lambda core: core[0].removeprefix("-mcpu=cortex-"))
def test_no_warnings(exported, tmp_path, emulator, core):
    code = exported[1] / "c"
    for file in sorted(code.glob("*.c")):
        command = ["arm-none-eabi-gcc", *core, "-mthumb", "-O2", *STRICT, *includes(code), "-c", str(file), "-o", str(tmp_path / "x.o")]
        subprocess.run(command, check=True)


@pytest.mark.board
def test_nothing_of_a_library_for_the_m0_plus_is_a_float(exported, emulator, tmp_path):
    """From a sensor's bytes on: loop, guard, buffer, store and steps, linked with all that they call."""
    code = exported[1] / "c"
    (tmp_path / "main.c").write_text(
        '#include "lfwd_adapt.h"\n#include "lfwd_store.h"\nstatic lfwd_value x[LFWD_INPUT]; static lfwd_stage_report r[LFWD_STAGES];\n'
        "int main(void) { const lfwd_adapt_settings s = LFWD_ADAPT_SETTINGS; const lfwd_flash *f = (const lfwd_flash *)0x20000000;\n"
        "lfwd_init(); lfwd_samples_clear(1);\n"
        "lfwd_prepare((const uint8_t *)f, x); lfwd_samples_add(x, 0); lfwd_adapt(&s, r); lfwd_save(f); return lfwd_load(f); }\n"
        "void _exit(int code) { (void)code; for (;;) {} }\n"
    )
    files = [tmp_path / "main.c", *sorted(code.glob("*.c")), *sorted((code / "kernels").glob("*.c"))]
    command = ["arm-none-eabi-gcc", "-mcpu=cortex-m0plus", "-mthumb", "-O2", "-std=c99", "-ffunction-sections", "-fdata-sections"]
    command += [*includes(code), *map(str, files), "--specs=nano.specs", "--specs=nosys.specs", "-Wl,--gc-sections", "-lm"]
    subprocess.run([*command, "-o", str(tmp_path / "library.elf")], check=True, capture_output=True)
    listed = subprocess.run(["arm-none-eabi-nm", str(tmp_path / "library.elf")], check=True, capture_output=True, text=True).stdout
    symbols = [line.split()[-1] for line in listed.splitlines()]
    assert {"lfwd_adapt", "lfwd_step_head", "lfwd_save", "lfwd_prepare"} <= set(symbols)
    assert [
        s
        for s in symbols
        if s.startswith(("__aeabi_f", "__aeabi_d", "__aeabi_i2", "__aeabi_ui2", "__aeabi_l2", "__aeabi_ul2")) and "div0" not in s
    ] == []


M3 = BOARDS["mps2-an385"]
M0_PLUS = replace(M3, cpu="Cortex-M3 running code for the Cortex-M0+", flags=("-mcpu=cortex-m0plus",))


def on_a_board(net, exported, target):
    x, y = samples(60, seed=2, drift=True)
    test = samples(50, seed=9, drift=True)[0]
    ran, done = adapt_on_board(exported[1] / "c", target, x, y, test, timeout=600), expected(net, (x, y))
    require_equal(ran.stages, done)
    assert ran.weights == bytes_of(done)
    assert torch.equal(ran.before, done.device_before(test)) and torch.equal(ran.after, done.device_after(test))
    assert abs(ran.ram - sum(exported[0].ram_bytes.values())) <= 64


@pytest.mark.board
def test_an_emulated_core_without_fpu_has_the_bits_of_the_host(net, exported, emulator):
    on_a_board(net, exported, M0_PLUS)


@pytest.mark.board
@pytest.mark.slow
@pytest.mark.parametrize("name", BOARDS)
def test_every_emulated_core_has_the_bits_of_the_host(net, exported, emulator, name):
    on_a_board(net, exported, board(name))


@pytest.mark.parametrize(
    ("stages", "source", "said"),
    [
        (["statistics"], SOURCE, "sets batch norm right, which integers see folded"),
        (STAGES, None, "without inputs of the source"),
        ([lf.Stage("zeroth_order")], SOURCE, "cannot be lowered to integers"),
    ],
    ids=["statistics", "source", "zeroth_order"],
)
def test_what_has_no_integers_is_refused(net, tmp_path, stages, source, said):
    with pytest.raises(lf.LightningFwdError, match=said):
        export_library(net, stages, samples(2)[0], tmp_path / "out", firmware=FIRMWARE, source=source)
    assert not (tmp_path / "out").exists()


def test_features_in_float_are_refused(net, tmp_path):
    with pytest.raises(lf.LightningFwdError, match="give the data mfcc: integer"):
        export_library(
            net, STAGES, samples(2)[0], tmp_path / "out", firmware=FIRMWARE, source=SOURCE, form=InputForm("int16", recording=16000)
        )


def test_drift_is_noticed_in_float_only():
    with pytest.raises(lf.LightningFwdError, match="false_alarms with precision='integer'"):
        lf.Firmware(precision="integer", false_alarms=0.01)
