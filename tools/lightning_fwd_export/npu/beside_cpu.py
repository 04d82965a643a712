"""What learning takes on an NPU board, phase by phase, and what the same rule takes on the board's processor alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

import lightning_fwd as lf
from lightning_fwd.cost import load_device, step_cost

from .board import NpuBoardReport
from .estimate import inference_macs

#: profiles: the board, whose figures of energy are used; its processor alone
_BOARD, _CPU = "ethos_u55_128_m55", "cortex_m55_qemu"

#: inferences that a sample takes, where it is not one
RUNS = {"zeroth-order": 2, "forward-forward": 3}


@dataclass(frozen=True)
class NpuPhase:
    """One thing that the device does. All estimates but instructions, which an emulated Cortex-M55 counted.

    Attributes:
        npu_cycles: by Vela's estimate. cpu_instructions: beside them, None where the C was not run on an emulated board.
        cpu_only_instructions: of the same rule without an NPU, of its multiply-accumulates alone (int8, C kernels with Helium).
        energy_uj, cpu_only_energy_uj: at the same energy for a cycle, whichever of the two works (profile ``ethos_u55_128_m55``).
    """

    phase: str
    npu_cycles: int
    cpu_instructions: int | None
    cpu_only_instructions: int
    energy_uj: float
    cpu_only_energy_uj: float


def beside_cpu(
    net: nn.Module, example: Tensor, train: str, cycles: tuple[int, int], inferences_per_probed_image: int, board: NpuBoardReport | None
) -> tuple[NpuPhase, ...]:
    """Statistics (per image), a training step (of one sample), an update, a prediction.

    On a processor alone statistics take one inference per image: it sees every activation, and need not probe.

    Args:
        example: ``(1, ...)``. train: what learns, see :func:`.export_learning`.
        cycles: of an inference, and of a way back.
    """
    inference, way_back = cycles
    forward = back = inference_macs(net, example)
    if train == "norms":
        back = step_cost(net, example, method=lf.SparseUpdate(train="norms"), width="int8").total_macs - forward
    runs = RUNS.get(train, 1)
    found = {
        "statistics, per image": (inference * inferences_per_probed_image, board and board.align_instructions, forward),
        "step of one sample": (
            inference * runs + way_back,
            board and board.step_instructions,
            forward * runs + (back if train == "norms" else 0),
        ),
        "update": (0, board and board.update_instructions, 0),
        "prediction": (inference, board and board.predict_instructions, forward),
    }
    alone, profile = load_device(_CPU).cycles_per_mac["int8"]["default"].value, load_device(_BOARD)
    uj_per_cycle = profile.pj_per_mac["int8"]["default"].value / profile.cycles_per_mac["int8"]["default"].value / 1e6
    phases = []
    for name, (npu, cpu, macs) in found.items():
        instructions = round(macs * alone) + (cpu or 0 if name == "update" else 0)
        phases.append(NpuPhase(name, npu, cpu, instructions, (npu + (cpu or 0)) * uj_per_cycle, instructions * uj_per_cycle))
    return tuple(phases)
