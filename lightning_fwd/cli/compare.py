"""``lightning-fwd compare``."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from rich.console import Console

from .options import NAMES, add_worker_options


def add_options(parser: argparse.ArgumentParser) -> None:
    from ..compare import Row, Scenario
    from ..recipes import Training
    from .names import documentation

    keys = ((Scenario, "Keys of a scenario"), (Row, "Keys of each of its rows"), (Training, "Keys of pretrain and adapt"))
    parser.epilog = "\n\n".join([*(documentation(of, heading) for of, heading in keys), NAMES])
    parser.add_argument("-c", "--config", required=True, help="scenario, e.g. recipes/compare_digits_drift.yaml")
    parser.add_argument(
        "--out", required=True, type=Path, help="folder for results.csv, report.html, summary.md and pareto.png; run again to resume"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a look: of the scenario one seed, two drifts, 200 test samples, at most 50 labels and 3 epochs, but for what --seeds, "
        "--drifts and --labels say; no figures to report",
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="in place of the scenario's")
    parser.add_argument("--drifts", nargs="+", help="e.g. noise=0.08 contrast=0.3, in place of the scenario's")
    parser.add_argument("--labels", type=int, nargs="+", help="numbers of labelled samples, in place of the scenario's")
    parser.add_argument("--rows", nargs="+", help="only these, by name; the others can be run later")
    parser.add_argument("--device", help="in place of the scenario's")
    parser.add_argument("--width", choices=("fp32", "int8", "mixed"), help="in place of the scenario's")
    parser.add_argument(
        "--accelerator", choices=("auto", "cpu", "gpu", "cuda", "mps"), help="what trains, in place of the scenario's (auto)"
    )
    parser.add_argument("--keep-weights", action="store_true", help="store each adapted network in adapted/ (.safetensors)")
    add_worker_options(parser)


def run(options: argparse.Namespace) -> int:
    """Pretrain, drift, adapt by each rule: accuracy and cost in one table."""
    from ..compare import (
        compare_grid,
        load_scenario,
        plot_pareto,
        print_grid,
        print_table,
        quick,
        summarise,
        write_grid_html,
        write_grid_markdown,
        write_html,
        write_markdown,
    )
    from ..recipes import on_backend

    keys = "seeds", "drifts", "labels", "device", "width", "accelerator"
    overrides = {k: v for k in keys if (v := getattr(options, k)) is not None}
    if options.device is not None:
        overrides["devices"] = None
    scenario, console, out = load_scenario(options.config, overrides), Console(), options.out
    if options.rows is not None:
        scenario = scenario.only(options.rows)
    if options.quick:
        scenario = quick(scenario, said=overrides)
    with on_backend(options.backend, options.address):
        finished = compare_grid(scenario, out.resolve(), options.jobs, console, options.keep_weights)
    command = shlex.join(["lightning-fwd", *sys.argv[1:]])
    if len(finished.cells) > 1:
        print_grid(finished, console)
        write_grid_markdown(finished, out / "summary.md")
        write_grid_html(finished, out / "report.html", command)
        console.print(f"wrote {out}/results.csv, report.html, summary.md", highlight=False)
        return 0
    scenario = finished.cells[0].scenario
    lines = summarise(scenario, finished.results[0], finished.prices)
    print_table(scenario, lines, console)
    write_markdown(scenario, lines, out / "summary.md")
    write_html(scenario, lines, out / "report.html", command)
    plot_pareto(scenario, lines, out / "pareto.png")
    console.print(f"wrote {out}/results.csv, report.html, summary.md, pareto.png", highlight=False)
    return 0
