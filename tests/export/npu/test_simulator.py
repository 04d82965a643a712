"""The simulator against the TOSA reference model: not one value may differ.

The five MLCommons-Tiny networks: ``pytest tests/export/npu/test_simulator.py -m slow``.
"""

from dataclasses import replace

import numpy as np
import pytest
from lightning_fwd_export.npu.binary import compile_tosa
from lightning_fwd_export.npu.command_stream import read_commands, set_register, write_commands
from lightning_fwd_export.npu.find_records import find_records, patch
from lightning_fwd_export.npu.simulator import Simulator
from lightning_fwd_export.npu.simulator.memory import NotSimulated
from lightning_fwd_export.npu.tosa_graph import TosaGraph
from record_changes import changed


def reference(tosa: bytes, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs ``(B, ...)`` of the TOSA reference model."""
    import tosa_reference_model

    runs = []
    for k in range(len(inputs[0])):
        outputs, _ = tosa_reference_model.run(
            tosa, [x[k : k + 1] for x in inputs], verbosity="NONE", initialize_variable_tensor_from_numpy=1
        )
        runs.append(outputs)
    return [np.concatenate([output.reshape(1, -1) for output in parts]) for parts in zip(*runs, strict=True)]


def compare(tosa: bytes, accelerator: str, images: int, trials: int) -> None:
    """As compiled, then with random constants, patched into the binary here and into the graph there."""
    binary, rng, graph = compile_tosa(tosa, accelerator), np.random.default_rng(0), TosaGraph(tosa)
    layers, new = find_records(tosa, binary), tosa
    for trial in range(trials + 1):
        inputs = [np.clip(rng.normal(0, 40, (images, *graph.shape(name)[1:])), -128, 127).astype(np.int8) for name in graph.inputs]
        got, want = Simulator(binary)(*inputs), reference(new, inputs)
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
        assert trial or len(np.unique(np.concatenate([x.ravel() for x in got]))) > 3  # not all saturated
        new, due = changed(tosa, rng, 0.5, layers)
        binary = patch(binary, due)


def test_a_small_network_as_the_reference_model_runs_it(tiny):
    compare(tiny.tosa, "ethos-u55-128", images=8, trials=3)
    compare(tiny.tosa, "ethos-u55-32", images=2, trials=1)


@pytest.mark.slow
@pytest.mark.parametrize("accelerator", ["ethos-u55-32", "ethos-u55-128", "ethos-u55-256"])
@pytest.mark.parametrize("network", ["ResNet8", "DSCNN", "MobileNetV1", "FCAutoencoder", "StreamingWakeWord"])
def test_the_reference_networks_as_the_reference_model_runs_them(mlperf_tiny, network, accelerator):
    compare(mlperf_tiny(network).tosa, accelerator, images=4, trials=2)


def test_what_it_does_not_know_it_refuses(tiny):
    with pytest.raises(NotSimulated, match="ethos-u85-256"):
        Simulator(replace(tiny.binary, accelerator="ethos-u85-256"))
    commands = read_commands(tiny.binary.commands)[0]
    tables = [set_register("ACTIVATION", 16) if command.name == "ACTIVATION" else command for command in commands]
    (image,) = tiny.binary.inputs
    with pytest.raises(NotSimulated, match="ACTIVATION"):
        Simulator(replace(tiny.binary, commands=write_commands(tiny.binary.commands, tables)))(np.zeros((1, image.size), np.int8))
