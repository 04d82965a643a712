"""Records: their bytes, where they lie, and that rewriting them is what the compiler would have done.

The whole matrix (four networks, eight accelerators, eight changes each): ``pytest tests/export/npu/test_records.py -m slow``.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fwd_export import ExportError
from lightning_fwd_export.npu.binary import compile_tosa
from lightning_fwd_export.npu.command_stream import read_commands, write_commands
from lightning_fwd_export.npu.find_records import find_records, patch
from lightning_fwd_export.npu.records import RECORD, Record
from record_changes import changed

ACCELERATORS = (
    *("ethos-u55-32", "ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u65-512"),
    *("ethos-u85-128", "ethos-u85-256", "ethos-u85-1024"),
)


@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1), st.integers(0, 63), st.sampled_from(ACCELERATORS))
@settings(max_examples=50, deadline=None)
def test_a_record_is_ten_bytes_and_comes_back(bias, scale, shift, accelerator):
    record = Record(bias, scale, shift)
    data = record.encode(accelerator)
    assert len(data) == RECORD and Record.decode(data, accelerator) == record


@given(st.floats(1e-6, 4))
@settings(max_examples=50, deadline=None)
def test_a_gain_becomes_the_nearest_record(gain):
    record = Record.of_gain(3.4, gain)
    assert record.bias == 3 and record.gain == pytest.approx(gain, rel=2**-30) and (record.scale % 2 == 1 or record.shift == 0)


@pytest.mark.parametrize("gain", [0.0, -0.1, 2.0**31])
def test_a_gain_that_no_record_holds_is_refused(gain):
    with pytest.raises(ExportError, match="gain"):
        Record.of_gain(0, gain)


def test_a_command_stream_is_written_as_it_was_read(tiny):
    commands, start = read_commands(tiny.binary.commands)
    assert commands[-1].name == "STOP" and start > 1
    assert write_commands(tiny.binary.commands, commands) == tiny.binary.commands
    with pytest.raises(ValueError, match="COP1"):
        read_commands(b"ELF!" + tiny.binary.commands[4:])


def test_layers_have_their_names(tiny):
    assert list(tiny.layers) == ["stem", "depthwise", "point", "classifier"]
    assert [len(layer.offsets) for layer in tiny.layers.values()] == [16, 16, 16, 5]


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_patched_is_recompiled(tiny, accelerator):
    _patch_against_compiler(tiny.tosa, accelerator, trials=3)


@pytest.mark.slow
@pytest.mark.parametrize("accelerator", ACCELERATORS)
@pytest.mark.parametrize("network", ["ResNet8", "DSCNN", "MobileNetV1", "StreamingWakeWord"])
def test_patched_is_recompiled_on_the_reference_networks(mlperf_tiny, network, accelerator):
    _patch_against_compiler(mlperf_tiny(network).tosa, accelerator, trials=8)


def _patch_against_compiler(tosa: bytes, accelerator: str, trials: int) -> None:
    """Every byte, command stream and constants, for changes of few channels, of many and of all."""
    binary, rng = compile_tosa(tosa, accelerator), np.random.default_rng(0)
    layers = find_records(tosa, binary)
    for trial in range(trials):
        new, due = changed(tosa, rng, (0.02, 0.3, 1.0)[trial % 3], layers)
        recompiled = compile_tosa(new, accelerator)
        assert recompiled.constants != binary.constants
        assert patch(binary, due) == recompiled
