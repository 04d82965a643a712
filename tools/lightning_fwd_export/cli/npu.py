"""What an Ethos-U takes for the forward pass, by its compiler Vela; writes a device profile."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lightning_fwd.cli.options import add_model_options, build_model

from ..errors import ExportError
from ..quiet import quiet


def add_options(parser: argparse.ArgumentParser) -> None:
    with quiet():
        from ..npu import ACCELERATORS

    add_model_options(parser, method=False)
    parser.add_argument("--accelerator", choices=ACCELERATORS, default="ethos-u55-128")
    parser.add_argument("--profile", type=Path, help="write a device profile there, for lightning-fwd cost --width int8 --device FILE.yaml")
    parser.add_argument("--base", help="profile that gives all other figures; default: the NPU alone. A board: ethos_u55_128_m55")


def run(options: argparse.Namespace) -> int:
    """Compile a network for an Ethos-U and print Vela's estimate beside the built-in profile's; optionally write a profile of this
    network."""
    from lightning_fwd.cost import load_device

    with quiet():
        from ..npu import ACCELERATORS, npu_forward, write_profile

    console = Console()
    if options.profile and options.profile.suffix not in (".yaml", ".yml"):
        raise ExportError(f"--profile {options.profile}", "a profile is a YAML file", "give it a name that ends in .yaml")
    base = load_device(options.base) if options.base else None
    forward = npu_forward(*build_model(options), options.accelerator)
    profile = load_device(ACCELERATORS[options.accelerator]).cycles({"forward": forward.macs}, "int8")
    table = Table("", "", show_header=False, title=f"one int8 forward pass of {forward.network}, {options.accelerator}")
    table.columns[1].justify = "right"
    table.add_row("cycles (Vela, an estimate)", f"{forward.cycles:,}")
    table.add_row(f"ms at {forward.clock_hz / 1e6:g} MHz", f"{1e3 * forward.cycles / forward.clock_hz:.3f}")
    table.add_row("MAC", f"{forward.macs:,}")
    table.add_row("cycles per MAC", f"{forward.cycles_per_mac:.4f}")
    table.add_row(f"cycles by the profile {ACCELERATORS[options.accelerator]}", f"{profile:,.0f}")
    table.add_row("parts on the NPU", f"{forward.parts}")
    table.add_row("left on the CPU", ", ".join(f"{count} {name}" for name, count in forward.on_cpu.items()) or "nothing")
    console.print(table)
    if options.profile:
        write_profile(forward, options.profile, base)
        console.print(f"wrote {options.profile}", highlight=False)
    return 0
