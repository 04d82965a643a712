"""ResNet-8 with its official weights in int8 on the emulated boards. Figures: ``pytest tests/export/test_resnet8.py -m slow -s``."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fwd_export.boards import run_on_board
from lightning_fwd_export.generate_c import pte_to_c
from lightning_fwd_export.host.runtime import HostProgram

from lightning_fwd.data import DriftDataModule
from lightning_fwd.models import ResNet8

MOST_INSTRUCTIONS = {"mps2-an386": 30_000_000, "mps2-an500": 30_000_000, "mps3-an547": 4_800_000}
pytestmark = [pytest.mark.slow, pytest.mark.board]


@pytest.fixture(scope="module")
def resnet8(tmp_path_factory):
    from lightning_fwd_export.int8 import int8_inference

    folder = os.environ.get("LIGHTNING_FWD_DATA")
    if not folder:
        pytest.skip("needs the official weights and CIFAR-10 in LIGHTNING_FWD_DATA")
    images = DriftDataModule("cifar10", normalize="byte", test_samples=64).tensors("test")[0]
    net = ResNet8(weights=str(Path(folder) / "mlperf_tiny" / "resnet8.npz")).eval()
    edge = int8_inference(net, [images[i : i + 1] for i in range(64)], images[:1])
    program, code = bytes(edge.to_executorch().buffer), tmp_path_factory.mktemp("resnet8") / "c"
    checked = pte_to_c(program, code, trust_unsealed=True)
    scale, zero = checked.numbers["forward_input0_scale"], checked.numbers["forward_input0_zp"]
    quantised = torch.clamp(torch.round(images[:3] / scale) + zero, -128, 127).to(torch.int8)
    calls = [("forward", (image[None].to(memory_format=torch.channels_last),)) for image in quantised]
    return program, checked, code, calls


@pytest.mark.parametrize("board", MOST_INSTRUCTIONS)
def test_inference_in_the_budget_and_the_same_bits_as_plain_c(resnet8, emulator, board):
    program, checked, code, calls = resnet8
    host = HostProgram(program)
    expected = [host.run("forward", *inputs)[0].numpy() for _, inputs in calls]
    fast = run_on_board(code, board, checked, calls)
    plain = run_on_board(code, board, checked, calls, ("-O2", "-DLFWD_PLAIN"))
    for want, a, b in zip(expected, fast.outputs, plain.outputs, strict=True):
        assert np.array_equal(a[0], want) and np.array_equal(b[0], want)
    print(
        f"\n{board}: {fast.instructions_per('forward'):,} instructions (plain C {plain.instructions_per('forward'):,}), "
        f"Flash {fast.flash:,}, RAM {fast.ram:,}, stack {fast.stack['forward']}"
    )
    assert fast.instructions_per("forward") <= MOST_INSTRUCTIONS[board] and fast.flash <= 120 * 1024
