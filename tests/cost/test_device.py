"""Device profiles: every figure has a source, own ones can be added, and a malformed one says which field."""

import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import lightning_fwd as lf
from lightning_fwd.cost import step_cost
from lightning_fwd.cost.device import KINDS, device_names, load_device
from lightning_fwd.errors import LightningFwdError
from lightning_fwd.graph.phase import PHASES
from lightning_fwd.models import ResNet8

OWN = {
    "name": "own_board",
    "core": "Cortex-M33",
    "clock_hz": {"value": 100, "kind": "datasheet", "source": "a"},
    "sram_bytes": {"value": 1000, "kind": "datasheet", "source": "b"},
    "flash_bytes": {"value": 2000, "kind": "datasheet", "source": "c"},
    "cycles_per_mac": {
        "int8": {
            "forward": {"value": 2, "kind": "measured", "source": "d"},
            "default": {"value": 5, "kind": "estimate", "source": "e"},
        }
    },
    "pj_per_mac": {"int8": {"default": {"value": 10, "kind": "estimate", "source": "f"}}},
    "pj_per_byte": {"sram": {"value": 3, "kind": "estimate", "source": "g"}},
}


def write(folder: Path, profile: object) -> Path:
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(profile))
    return path


def test_the_promised_devices_are_there():
    assert set(device_names()) >= {
        "stm32g474re", "stm32h735", "stm32f746", "stm32n657", "nrf52840",
        "cortex_m4_qemu", "cortex_m55_qemu", "ethos_u55_128", "ethos_u55_128_m55", "ethos_u85_256",
    }  # fmt: skip


@pytest.mark.parametrize("name", device_names())
def test_built_in_profiles_are_complete(name: str):
    device = load_device(name)
    assert device.name == name
    figures = dict(device.figures())
    assert {"clock_hz", "sram_bytes", "flash_bytes", "cycles_per_mac.int8.default"} <= figures.keys()
    for path, figure in figures.items():
        assert figure.kind in KINDS and len(figure.source) > 8, path
    everything = dict.fromkeys(PHASES, 1000)
    assert device.latency_s(everything, "int8") > 0
    assert device.counts == ("instructions" if name.endswith("_qemu") else "cycles")


def test_energy_is_never_called_measured_or_datasheet():
    """It follows from other devices and assumptions throughout."""
    for name in device_names():
        energies = {path: f for path, f in load_device(name).figures() if path.startswith("pj_")}
        assert {f.kind for f in energies.values()} <= {"estimate"}


def test_latency_of_the_published_book():
    """ResNet-8 inference, 12,534,590 MAC: 4.5 cycles at 170 MHz, 3 at 550 MHz."""
    macs = {"forward": 12_534_590}
    assert load_device("stm32g474re").latency_s(macs, "int8") == pytest.approx(0.33180, rel=1e-4)
    assert load_device("stm32h735").latency_s(macs, "int8") == pytest.approx(0.06837, rel=1e-4)


def test_the_emulators_are_calibrated_on_resnet8():
    """Instructions as the commands named in the profiles print them; the MAC are the ledger's, of one sample."""
    forward, training = {"forward": 12_501_632}, {"backward": 110_912, "update": 120_128}
    for name, int8, fp32, trained in (
        ("cortex_m4_qemu", 22_555_156, 20_132_702, 726_614 - 209_400),
        ("cortex_m55_qemu", 4_426_744, 137_353_052, 7_505_560 - 2_576_572),
    ):
        device = load_device(name)
        assert device.cycles(forward, "int8") == pytest.approx(int8, rel=1e-3)
        assert device.cycles(forward, "fp32") == pytest.approx(fp32, rel=1e-3)
        assert device.cycles(training, "fp32") == pytest.approx(trained, rel=3e-3)
        measured = {path for path, figure in device.figures() if figure.kind == "measured"}
        assert measured == {"cycles_per_mac.int8.forward", "cycles_per_mac.fp32.forward", "cycles_per_mac.fp32.default"}


def test_an_own_profile_with_a_figure_per_phase(tmp_path: Path):
    device = load_device(write(tmp_path, OWN))
    macs = {"forward": 100, "update": 10}
    assert device.cycles(macs, "int8") == 100 * 2 + 10 * 5
    assert device.latency_s(macs, "int8") == 2.5
    assert device.energy_j(macs, "int8") == pytest.approx(1100e-12)
    assert device.energy_j(macs, "int8", sram_bytes=100) == pytest.approx(1400e-12)
    assert device.energy_j(macs, "int8", flash_bytes=1) is None  # the profile does not say what a Flash byte costs


def test_no_energy_without_figures_and_no_width_without_figures():
    device = load_device("cortex_m4_qemu")
    assert device.energy_j({"forward": 1}, "int8") is None
    nrf = load_device("nrf52840")
    without_int8 = replace(nrf, pj_per_mac={"fp32": nrf.pj_per_mac["fp32"]})
    assert without_int8.energy_j({"forward": 1}, "int8") is None and without_int8.energy_j({"forward": 1}, "fp32") > 0
    with pytest.raises(LightningFwdError, match="ethos_u55_128 has no cycles_per_mac for width 'fp32'(.|\n)*int8"):
        load_device("ethos_u55_128").latency_s({"forward": 1}, "fp32")


@given(ram=st.integers(0, 3000), flash=st.integers(0, 3000))
def test_verdict(ram: int, flash: int, tmp_path_factory: pytest.TempPathFactory):
    device = load_device(write(tmp_path_factory.getbasetemp(), OWN))
    verdict = device.fits(ram, flash)
    assert (verdict.ram_margin_bytes, verdict.flash_margin_bytes) == (1000 - ram, 2000 - flash)
    assert verdict.fits == (ram <= 1000 and flash <= 2000)
    assert verdict.text.startswith("fits own_board" if verdict.fits else "does not fit own_board")


def test_verdict_says_by_how_much():
    verdict = load_device("stm32g474re").fits(ram_bytes=200_000, flash_bytes=100_000)
    assert verdict.text == (
        "does not fit stm32g474re: RAM 200,000 of 131,072 B (68,928 B too many), Flash 100,000 of 524,288 B (424,288 B free)"
    )


def test_unknown_names_list_the_known_ones():
    with pytest.raises(LightningFwdError, match="unknown device 'stm32g4'(.|\n)*nrf52840(.|\n)*stm32g474re"):
        load_device("stm32g4")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"core": None}, "core must be text"),
        ({"counts": "ticks"}, "counts must be cycles or instructions, not 'ticks'"),
        ({"constant_weights_only": "yes"}, "constant_weights_only must be true or false, not 'yes'"),
        ({"clock": 1}, "clock is unknown; known are name, core, clock_hz"),
        ({"clock_hz": 170}, "clock_hz must be a mapping"),
        ({"clock_hz": {"value": 1, "kind": "datasheet"}}, "clock_hz.source is missing"),
        ({"clock_hz": {"value": "fast", "kind": "datasheet", "source": "x"}}, "clock_hz.value must be a positive"),
        ({"clock_hz": {"value": 0, "kind": "datasheet", "source": "x"}}, "clock_hz.value must be a positive"),
        ({"clock_hz": {"value": 1, "kind": "guess", "source": "x"}}, "clock_hz.kind must be one of measured"),
        ({"clock_hz": {"value": 1, "kind": "estimate", "source": ""}}, "clock_hz.source must be text"),
        ({"cycles_per_mac": {"int8": {}}}, "cycles_per_mac.int8 must be a mapping"),
        ({"cycles_per_mac": {"int8": {"forward": OWN["clock_hz"]}}}, "cycles_per_mac.int8.default is missing"),
        (
            {"cycles_per_mac": {"int8": {"default": OWN["clock_hz"], "foward": OWN["clock_hz"]}}},
            "cycles_per_mac.int8.foward is unknown; known are default, forward",
        ),
        ({"cycles_per_mac": {"int9": {"default": OWN["clock_hz"]}}}, "cycles_per_mac.int9 is unknown; known are int8, fp32"),
        ({"pj_per_byte": {"dram": OWN["clock_hz"]}}, "pj_per_byte.dram is unknown; known are sram, flash"),
    ],
)
def test_a_malformed_profile_names_the_field(change: dict, complaint: str, tmp_path: Path):
    with pytest.raises(LightningFwdError, match=complaint):
        load_device(write(tmp_path, OWN | change))


@pytest.mark.parametrize("name", [key for key in OWN if not key.startswith("pj_")])
def test_a_missing_field_is_named(name: str, tmp_path: Path):
    with pytest.raises(LightningFwdError, match=f"{name} is missing"):
        load_device(write(tmp_path, {key: value for key, value in OWN.items() if key != name}))


def test_files_that_are_no_profile(tmp_path: Path):
    with pytest.raises(LightningFwdError, match="cannot read the device profile"):
        load_device(tmp_path / "absent.yaml")
    (tmp_path / "torn.yaml").write_text("name: [1,")
    with pytest.raises(LightningFwdError, match="cannot read the device profile"):
        load_device(tmp_path / "torn.yaml")
    (tmp_path / "object.yaml").write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(LightningFwdError, match="cannot read the device profile"):
        load_device(tmp_path / "object.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(LightningFwdError, match="the file must be a mapping"):
        load_device(tmp_path / "list.yaml")


def test_a_malformed_profile_is_answered_with_one_that_loads(tmp_path):
    (tmp_path / "bare.yaml").write_text("name: mine\ncore: Cortex-M0+\nclock_hz: 133000000\n")
    with pytest.raises(LightningFwdError, match="cycles_per_mac is missing|sram_bytes is missing") as raised:
        load_device(tmp_path / "bare.yaml")
    (tmp_path / "example.yaml").write_text(textwrap.dedent(str(raised.value).partition("at least:\n")[2]))
    assert load_device(tmp_path / "example.yaml").name == "my_board"


def test_what_an_npu_board_leaves_to_its_cpu():
    """Frozen weights run on the NPU, forward and on the way back; products with trained weights take the CPU's figure."""
    board, net = load_device("ethos_u55_128_m55"), ResNet8().eval()
    figures, x = {path: figure.value for path, figure in board.figures()}, torch.zeros(1, 3, 32, 32)
    norms = step_cost(net, x, "ethos_u55_128_m55", "int8", method=lf.SparseUpdate(train="norms"))
    wanted = sum(norms.macs_by_phase[phase] * figures[f"cycles_per_mac.int8.{phase}"] for phase in ("forward", "backward"))
    assert norms.latency_s == pytest.approx(wanted / board.clock_hz.value)
    everything = step_cost(net, x, "ethos_u55_128_m55", "int8", method=lf.Backprop())
    assert everything.latency_s == pytest.approx(everything.total_macs * figures["cycles_per_mac.int8.default"] / board.clock_hz.value)
