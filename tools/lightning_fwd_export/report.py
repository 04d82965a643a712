"""What an export says of itself: the object that it returns and the file ``report.json``."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ExportReport:
    """What was exported and what it measured.

    Attributes:
        program: path of the .pte. code: folder of the C sources.
        weights: names of what ``get_weights`` gives, in order. What is not the plain model's tensor (folded, masked, integers) has a name
            of its own; ``lf.load_device_weights`` knows the way back.
        steps, weight_difference: how long and how closely the program followed PyTorch on the host (of an int8 program: PyTorch's run of
            the same integer step).
        same_predictions: of an int8 program, the share of samples that it classifies as the float model does, before any training.
        activations_bytes, state_bytes: planned, of the training step.
        ram_bytes: static memory of the program as generated, by name: its arrays, scratch of its kernels included, and what the C library
            brings along.
        flash_bytes: constants and code of the smallest firmware around the program, by core, predicted from the kernels that it calls.
        ledger: ``shipped_ram_bytes`` (the sum of ``ram_bytes``, known without a linker; the stack is not in it),
            ``shipped_constants_bytes`` (constants and tables of the generated C), ``shipped_flash_bytes`` (``flash_bytes`` on the board's
            core, else on a Cortex-M4), and what ``lf.step_cost`` predicts from the graph: ``scheduled_ram_bytes`` (the ideal of fused and
            reordered loops, which calls of one kernel per operation do not reach), ``flash_bytes`` (constants of the step),
            ``macs_per_step``. Empty of a step in integers.
        board: figures of the run on the emulated board, empty without one.
    """

    program: str
    code: str
    weights: list[str]
    steps: int
    weight_difference: float
    activations_bytes: int
    state_bytes: int
    same_predictions: float | None = None
    ram_bytes: dict[str, int] = field(default_factory=dict)
    flash_bytes: dict[str, int] = field(default_factory=dict)
    ledger: dict[str, int] = field(default_factory=dict)
    board: dict[str, object] = field(default_factory=dict)
