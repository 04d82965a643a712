"""``lightning-fwd export --npu``: what learns on an NPU that only infers."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from lightning_fwd.cli.options import build_model

from ..errors import ExportError
from ..quiet import quiet

#: options of the other exports, and of a drift that only they simulate: why they have no meaning here
_SAID = "rate, batch and momentum are arguments of lfwd_train_begin"
_RULE = "what learns on an NPU is said by --train"
_OTHERS = {
    "int8": "the NPU computes in int8 always",
    "drift": "no drift is simulated, and the device meets its own",
    "config": "a recipe describes a rule, and what learns on an NPU is said by --train",
    "batch": _SAID,
    "lr": _SAID,
    "momentum": _SAID,
    "steps": "no training step is checked on the host; with --run a fixed number of images is",
    "method": _RULE,
    "set": f"it sets a rule's options, and {_RULE}",
    "prefix": "the names in this C are fixed, lfwd_ and LFWD_NPU_",
    "loss": "the device learns from labels by cross entropy",
    "inference": "the C predicts (lfwd_predict) whatever it trains; nothing is left out",
}
_CALIBRATION = 256


def export_npu(options: argparse.Namespace, console: Console) -> None:
    """Write the C of what learns on an Ethos-U55, and print what it takes.

    Raises:
        ExportError: an option that has no meaning here is given, or the network cannot be exported.
    """
    from lightning_fwd.data import DriftDataModule
    from lightning_fwd.models.weights import KERAS, load_state, load_weights, read_checkpoint

    with quiet():
        from ..npu.export_learning import export_learning

    if stated := [name for name in _OTHERS if getattr(options, name) != options.defaults[name]]:
        raise ExportError(
            f"--npu with {', '.join(f'--{name}' for name in stated)}",
            "; ".join(dict.fromkeys(_OTHERS[name] for name in stated)),
            "leave these options out",
        )
    if bool(options.board) != options.run:
        raise ExportError("--npu with one of --board and --run", "the C runs on a board's emulator", "--board mps3-an547 --run")
    if not options.dataset:
        raise ExportError(
            "--npu needs samples of the source domain", "they give ranges and statistics", "give --dataset, e.g. --dataset cifar10"
        )
    net, _ = build_model(options, 1, lambda: None)
    if options.weights and options.weights.suffix in KERAS:
        load_weights(net, options.weights)
    elif options.weights:
        load_state(net, read_checkpoint(options.weights))
    samples = DriftDataModule(options.dataset, normalize=options.normalize).calibration_batch(_CALIBRATION)
    report = export_learning(net, samples, options.npu, options.out, options.train or "head", options.board if options.run else None)
    table = Table("", "", show_header=False, title=f"{report.network} learns on an {report.accelerator}")
    table.columns[1].justify = "right"
    table.add_row("cycles per inference (Vela, an estimate)", f"{report.cycles_per_inference:,}")
    if report.trains == "norms":
        table.add_row("cycles per way back", f"{report.cycles_per_way_back:,}")
    runs = {
        "head": "inference",
        "norms": "inference and way back",
        "zeroth-order": "two inferences",
        "forward-forward": "three inferences",
    }[report.trains]
    probing = report.cycles_per_inference * report.inferences_per_probed_image
    table.add_row("inferences per image of lfwd_align_statistics", f"{report.inferences_per_probed_image}")
    table.add_row(f"  ms at {report.clock_hz / 1e6:g} MHz", f"{1e3 * probing / report.clock_hz:.3f}")
    table.add_row("runs per lfwd_train_step", runs)
    table.add_row(f"  ms at {report.clock_hz / 1e6:g} MHz", f"{1e3 * report.cycles_per_sample / report.clock_hz:.3f}")
    table.add_row("records", f"{report.records:,}")
    table.add_row("  their table in RAM, bytes", f"{report.table_bytes:,}")
    table.add_row("RAM, static, bytes", f"{report.ram_bytes:,}")
    table.add_row("  of it the NPU's arena", f"{report.arena_bytes:,}")
    table.add_row("Flash without code, bytes", f"{report.flash_bytes:,}")
    if board := report.board:
        table.add_row(f"{board.cpu}, instructions: statistics, per image", f"{board.align_instructions:,}")
        table.add_row("  step of one sample", f"{board.step_instructions:,}")
        table.add_row("  update", f"{board.update_instructions:,}")
        table.add_row("  prediction", f"{board.predict_instructions:,}")
        table.add_row("  code without the C library, bytes", f"{board.code_bytes:,}")
    for phase in report.phases:
        if phase.npu_cycles:
            table.add_row(f"{phase.phase}, energy in µJ (a rough estimate)", f"{phase.energy_uj:,.1f}")
            table.add_row("  Cortex-M55 alone, the same rule", f"{phase.cpu_only_energy_uj:,.1f}")
            table.add_row("  its instructions, of multiply-accumulates", f"{phase.cpu_only_instructions:,}")
    console.print(table)
    console.print(f"C in {options.out / 'c'}", highlight=False, soft_wrap=True)
