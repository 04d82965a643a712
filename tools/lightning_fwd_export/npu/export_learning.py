"""From a classifier and samples of its source domain to a folder of C that learns on an inference-only NPU, with a report of what it
takes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from lightning_fwd.models.weights import require_finite

from ..errors import ExportError
from ..folder import clear_export, require_folder, write_report
from ..foreign import as_export_errors, require_network
from .beside_cpu import RUNS, NpuPhase, beside_cpu
from .board import NpuBoardReport, require_board, run_on_board
from .learn import NpuLearner, NpuTrainer
from .lower import MEND
from .simulator.weights import MICRO_BLOCKS
from .taps import insert_taps
from .write_c import write_c

#: what one adaptation of a layer's statistics runs: once for the mean, once for the spread
_INFERENCES_PER_IMAGE = 2
#: images that are run on a board, and images per update
_ON_BOARD, _BATCH = 16, 8
#: labels are uint8_t, the guard's too
_MOST_CLASSES = 256
#: accelerators whose records can be found and patched (``find_records``, ``patch``), and what is missing for more
_WHY_NOT = {
    "ethos-u65": (
        "it is compiled with activations in two memories, DRAM and an SRAM of its own; the C has one arena, and the simulator that checks "
        "it bit for bit knows one arena and one core"
    ),
    "ethos-u85": (
        "its command stream repeats the scale of each layer's first channel, so the stream would have to lie in RAM and be patched with "
        "the records, where this C keeps it in Flash; and the simulator that checks the C bit for bit does not know its weight format"
    ),
}
#: LFWD_NPU_LINE, of which arena and tables take whole ones
_LINE = 32
#: of the guard: three pointers, two numbers, a bit for each of 1,024 images
_GUARD_BYTES = 4 * 5 + 128
#: what can learn from labels
TRAINS: dict[str, type[NpuLearner]] = {"head": NpuLearner, "norms": NpuTrainer, "zeroth-order": NpuLearner, "forward-forward": NpuLearner}


@dataclass(frozen=True)
class NpuReport:
    """What was exported, and what it takes.

    Attributes:
        layers: whose statistics are adapted. records: of all layers, each rewritable.
        table_bytes: all records, in RAM. flash_bytes, ram_bytes: constants and static data; code and stack come on top.
        trains: ``"head"``, or ``"norms"``, ``"zeroth-order"`` or ``"forward-forward"`` (and the head).
        cycles_per_inference: with the taps, Vela's estimate. clock_hz: of the system that Vela assumes.
        cycles_per_way_back: of the second half of the program, 0 where there is none.
        cycles_per_sample: of a training step.
        inferences_per_probed_image: how often each of the images of ``lfwd_align_statistics`` is run.
        board: what the C took beside the NPU on an emulated core, if it was run there.
        phases: what each thing that the device does takes, beside the same rule on the processor alone.
    """

    network: str
    accelerator: str
    trains: str
    layers: tuple[str, ...]
    records: int
    table_bytes: int
    flash_bytes: int
    ram_bytes: int
    arena_bytes: int
    cycles_per_inference: int
    cycles_per_way_back: int
    cycles_per_sample: int
    clock_hz: float
    inferences_per_probed_image: int
    board: NpuBoardReport | None = None
    phases: tuple[NpuPhase, ...] = ()


@as_export_errors(MEND)
def export_learning(
    net: nn.Module, calibration: Tensor, accelerator: str, out: str | Path, train: str = "head", board: str | None = None
) -> NpuReport:
    """Compile, measure the source domain's statistics on the simulated NPU, write ``out/c`` and ``out/report.json``.

    Args:
        net: a classifier that ends in a linear layer, with convolutions under batch norm; it is not changed.
        calibration: ``(N, ...)`` samples of the source domain: ranges of the quantisation, and the statistics to come back to.
        accelerator: an Ethos-U55, by Vela's name.
        train: what learns from labels: ``"head"``, or ``"norms"``: shift and scale of every batch norm too, by the way back of the
            error; ``"zeroth-order"``: the same by two inferences per sample; ``"forward-forward"``: shifts, and a context for each class,
            by three.
        board: run the C on this emulated board too, against the Python loop; the simulator's runs are played back there.

    Raises:
        ExportError: the accelerator, the network or the board is not supported, the program does not fit the board, or the C does not come
            to the Python loop's records; nothing is written then, and what an export before has written stays.
    """
    _check_accelerator(accelerator)
    if train not in TRAINS:
        raise ExportError(f"nothing called {train!r} learns on an NPU", "", f"take one of {', '.join(TRAINS)}")
    require_network(net, calibration)
    require_finite(net.state_dict())
    require_folder(Path(out))
    if board:
        require_board(board)
    _check_samples(calibration, board)
    _check_classes(net, calibration)
    learner = TRAINS[train](net, calibration, accelerator)
    source = learner.source_statistics(calibration)
    report = _report(learner, type(net).__name__, train)
    with TemporaryDirectory() as folder:
        code = Path(folder)
        write_c(learner, source, code, train)
        if board:
            images = learner.store(calibration[: min(_ON_BOARD, len(calibration)) // _BATCH * _BATCH])
            report = replace(report, board=run_on_board(learner, source, code, images, _BATCH, board, train))
        cycles = report.cycles_per_inference, report.cycles_per_way_back
        phases = beside_cpu(net, calibration[:1], train, cycles, report.inferences_per_probed_image, report.board)
        report = replace(report, phases=phases)
        clear_export(Path(out))
        shutil.copytree(code, Path(out) / "c", dirs_exist_ok=True)
    write_report(report, Path(out))
    return report


def _check_accelerator(accelerator: str) -> None:
    """Refuse what the exported C cannot rewrite, or what nothing here could check."""
    if accelerator in MICRO_BLOCKS:
        return
    known = f"take one of {', '.join(MICRO_BLOCKS)}"
    for family, why in _WHY_NOT.items():
        if accelerator.startswith(family):
            raise ExportError(f"no C of what learns on {accelerator}", why, known)
    raise ExportError(f"no learning on {accelerator!r}", "an unknown accelerator", known)


def _check_samples(calibration: Tensor, board: str | None) -> None:
    if not calibration.isfinite().all():
        raise ExportError("samples with values that are not finite", "they give ranges and statistics", "leave them out")
    if board and len(calibration) < _BATCH:
        raise ExportError(
            f"{len(calibration)} samples for a run on a board", f"it makes updates of {_BATCH}", f"give {_BATCH} of the source or more"
        )


def _check_classes(net: nn.Module, calibration: Tensor) -> None:
    """Refuse what the exported C cannot tell apart, before anything is compiled."""
    tapped = insert_taps(net, calibration[:1])
    classes = tapped.module.get_submodule(tapped.head).out_features
    if not 2 <= classes <= _MOST_CLASSES:
        raise ExportError(
            f"{type(net).__name__} has {classes} class{'es' if classes > 1 else ''}, and {tapped.head} learns from labels on the device",
            "one class leaves nothing to learn" if classes < 2 else "the C keeps a label in one byte",
            f"give it a last layer of 2 to {_MOST_CLASSES} outputs",
        )


def _lines(size: int) -> int:
    return -(-size // _LINE) * _LINE


def _report(learner: NpuLearner, network: str, train: str) -> NpuReport:
    binary, layers = learner.split.binary, learner.tapped.layers
    arena, table = _lines(binary.arena), _lines(len(learner.split.table))
    channels = [len(learner.split.places[layer]) for layer in layers]
    linear = learner.tapped.module.get_submodule(learner.tapped.head)
    head = 4 * linear.out_features * (linear.in_features + 1)
    # lfwd_npu_memory: what is learned, twice (gain, offset, head); sums and means of one layer, features; moments and gradients of the
    # head; six settings; the guard's
    learned = 4 * 2 * sum(channels) + head
    state = 4 * (2 * max(channels) + linear.in_features) + 2 * head + 4 * 6 + _GUARD_BYTES
    streams, constants = len(learner.simulator.binary.commands), 12 * sum(channels)
    inference, way_back = learner.cycles_per_inference, learner.program.cycles - learner.cycles_per_inference
    if train != "head":  # shift and scale
        learned, constants = learned + 8 * sum(channels), constants + 8 * sum(channels)
    if isinstance(learner, NpuTrainer):  # the error; moments and sums
        state += 4 * linear.in_features + 4 * 4 * sum(channels)
        streams += len(learner.second_half.binary.commands)
        constants += 4 * sum(len(learner.split.places[path]) for path in learner.back.gains.values())
    if train == "zeroth-order":  # two more tables; features of the first run, signs; two losses, rate, spread, two states of the signs
        state += 2 * table + 4 * linear.in_features + 8 * max(channels) + 4 * 6
    if train == "forward-forward":  # contexts, begun or not; a table per class; their gradients, those of shifts, positive outputs; two
        # rates, a state
        learned += 4 * linear.out_features * sum(channels) + 4
        state += linear.out_features * (table + 4 * sum(channels)) + 4 * 2 * sum(channels) + 4 * 3
    return NpuReport(
        network=network,
        accelerator=binary.accelerator,
        trains=train,
        layers=layers,
        records=learner.program.records,
        table_bytes=len(learner.split.table),
        flash_bytes=streams + len(binary.constants) + len(learner.split.table) + head + constants,
        ram_bytes=_lines(arena + table + 2 * learned + state),
        arena_bytes=binary.arena,
        cycles_per_inference=inference,
        cycles_per_way_back=way_back,
        cycles_per_sample=inference * RUNS.get(train, 1) + way_back,
        clock_hz=learner.program.clock_hz,
        inferences_per_probed_image=_INFERENCES_PER_IMAGE * len(layers),
    )
