"""An adaptation in, one checked C library out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from lightning_fwd.adaptation import Firmware, as_stages
from lightning_fwd.adaptation.anomaly import require_kind, source_threshold
from lightning_fwd.adaptation.draws import share_of
from lightning_fwd.adaptation.drift_score import DriftScore
from lightning_fwd.data.inputs import InputForm
from lightning_fwd.models.weights import require_finite
from lightning_fwd.trace.step_graph import trace_inference

from ..c_code.anomaly import ANOMALY, write_anomaly
from ..c_code.drift import DRIFT, drift_bytes, write_drift
from ..c_code.front_end import front_end_entries, front_end_ram
from ..c_code.prepare import add_prepare
from ..c_code.selftest import write_selftest
from ..c_code.stages import default_macros
from ..c_code.writer import Written
from ..code_size import BYTES, INTEGERS, loop_code, shipped_flash, shipped_ram
from ..errors import ExportError, NoKernel
from ..folder import clear_export, require_folder, write_report
from ..foreign import as_export_errors, require_network
from ..fuse_step import fuse_layers
from ..generate_c import PREFIX, require_prefix, translate, write_sources
from ..locate import source_line
from ..program import MethodGraph, StepProgram, build_methods
from ..pte import Program
from ..quiet import quiet
from ..unrolled import require_few_operations, require_few_steps
from ..weights_table import write_weights_table
from .check import LibraryCheck, example_samples
from .integers import IntegerLibraryCheck, build_integer_library, integer_library
from .stages import trace_stages
from .trace import TracedStage, with_features


@dataclass
class LibraryReport:
    """What was exported and what it measured.

    Attributes:
        program: path of the .pte. code: folder of the C sources.
        stages: names of the step functions, in order. weights: names of what ``get_weights`` gives.
        steps, weight_difference: how many of each stage were held against PyTorch on the host, and the largest difference of a weight,
            relative to its tensor's largest value where that is above 1.
        ram_bytes: static memory of the program as generated, by name; ``adapt``: of the loop (buffer, undo copy, batch) with its default
            room; ``input``: of the front end of sound.
        flash_bytes: constants and code of the smallest firmware around program, loop and front end, by core.
        input_macs: multiplications that make one input of a recording; 0 where an input is no more than scaled.
    """

    program: str
    code: str
    stages: list[str]
    weights: list[str]
    steps: dict[str, int]
    weight_difference: float
    ram_bytes: dict[str, int] = field(default_factory=dict)
    flash_bytes: dict[str, int] = field(default_factory=dict)
    input_macs: int = 0


@quiet()
@as_export_errors()
def export_library(
    net: nn.Module,
    stages: Any,
    example: Tensor,
    out_dir: str | Path,
    *,
    firmware: Firmware | None = None,
    held_back: float = 1 / 3,
    seed: int = 0,
    prefix: str = PREFIX,
    form: InputForm | None = None,
    source: Tensor | None = None,
    steps: int = 8,
    progress: Callable[[str], None] = lambda phase: None,
) -> LibraryReport:
    """Export all stages of an adaptation as one C library over one set of weights, with the guarded loop ``lfwd_adapt.h``.

    ``lf.adapt(net, stages, data, firmware=firmware, held_back=..., seed=...)`` does on the host what the library does.

    Args:
        net: the trained network; left as it is. stages: as of :func:`lightning_fwd.adapt`.
        example: an input ``(B, ...)``; predictions are made one sample at a time, steps in batches of the stage's ``batch_size``.
        out_dir: gets ``library.pte``, ``c/``, ``report.json``, and the weights table for the way back (``lf.load_device_weights``).
        firmware, held_back, seed: settings of the loop, as macros in the header.
        prefix, form: as of :func:`lightning_fwd_export.export`.
        source: inputs without drift ``(N, ...)``: what the drift score is calibrated by (``firmware.false_alarms``), and the scales of
            integers (``firmware.precision``); the threshold of anomalies (``firmware.anomalies``) by these or recordings ``(N, W, ...)``.
        steps: of each stage that are held against PyTorch.

    Raises:
        ExportError: a stage cannot be part of a library, an operator has no kernel, or the program strays from PyTorch. Nothing is written
            then.
        LightningFwdError: stages that cannot be used, or a weight that is not finite.
    """
    stages, firmware, out = as_stages(stages), firmware or Firmware(), Path(out_dir)
    if steps < 1 or not 0 <= held_back < 1:
        raise ExportError(f"steps={steps}, held_back={held_back}", "", "use steps >= 1 and 0 <= held_back < 1")
    require_network(net, example)
    _require_form(form, firmware)
    require_prefix(prefix)
    require_finite(net.state_dict())
    require_folder(out)
    score = firmware.drift_score(net, source)
    net = copy.deepcopy(net).eval()
    require_kind(net, example, firmware.anomalies is not None)
    threshold = None if firmware.anomalies is None else source_threshold(net, source, example, firmware.anomalies)
    require_few_steps(net, example)
    progress(f"tracing {len(stages)} stages")
    integers = None
    in_bytes = firmware.sample_type == "int8" and firmware.precision == "float32"
    defaults = default_macros(firmware.samples, firmware.patience, share_of(held_back), seed, in_bytes)
    if firmware.precision == "integer":
        integers, traced = integer_library(net, stages, source, firmware)
    else:
        traced = trace_stages(net, stages, example, reconstructs=threshold is not None)
    try:
        if integers is not None:
            program = build_integer_library(integers, traced)
        else:
            program = _build(net, traced, example[:1], watched=score is not None)
        checked, written = translate(program.data, "library.pte", stages=[s.table(program.learned) for s in traced], defaults=defaults)
    except NoKernel as error:
        line = source_line(net, error.layer)
        raise NoKernel(f"{error.what}, {line}" if line else error.what, error.why, error.mend, error.layer) from error
    progress(f"holding {steps} steps of each stage against PyTorch")
    classes = checked.methods["forward"].outputs[0].count
    check: LibraryCheck | IntegerLibraryCheck
    if integers is not None:
        check = IntegerLibraryCheck(program, checked, written.files, integers, traced, steps)
    else:
        check = LibraryCheck(program, net, traced, example_samples(example, classes, traced, steps), steps)
    written.files["lfwd_selftest.c"] = write_selftest(check.run, check.calls)
    add_prepare(written.files, form, checked)
    if score is not None and isinstance(check, LibraryCheck):
        check.watch(program, net, example[:1])
        written.files[DRIFT] = write_drift(score, cast(float, firmware.false_alarms))
    if threshold is not None:
        written.files[ANOMALY] = write_anomaly(threshold, cast(float, firmware.anomalies))
    clear_export(out)
    write_sources(written.files, out / "c", prefix)
    (out / "library.pte").write_bytes(program.data)
    write_weights_table(out, traced[0].model, program, checked, written, integers.stored_as() if integers else None)
    report = LibraryReport(
        str(out / "library.pte"),
        str(out / "c"),
        [s.table(()).method for s in traced],
        program.weights,
        check.steps,
        check.weights,
        ram_bytes=shipped_ram(written)
        | {"adapt": _loop_bytes(checked, traced, program, firmware)}
        | front_end_ram(form)
        | ({"drift": drift_bytes(score)[1]} if score else {}),
        flash_bytes=_flash(written, firmware, form, score),
        input_macs=form.macs if form else 0,
    )
    write_report(report, out)
    return report


def _require_form(form: InputForm | None, firmware: Firmware) -> None:
    if firmware.precision == "integer" and form is not None and form.recording and not form.integers:
        raise ExportError(
            "a library in integers whose MFCC are computed in float",
            "without an FPU they would cost as much as the network does, and host and device would differ by steps of int8",
            "give the data mfcc: integer",
        )


def _build(net: nn.Module, traced: list[TracedStage], x: Tensor, watched: bool) -> StepProgram:
    forward = trace_inference(net, x)
    fuse_layers(forward.module)
    values, methods = dict[str, Tensor](), {"forward": MethodGraph(forward, (x,), ("logits",))}
    if watched:
        watch = with_features(trace_inference(net, x))
        fuse_layers(watch.module)
        methods["watch"] = MethodGraph(watch, (x,), ("logits", "features"))
    known = dict([*net.named_parameters(), *net.named_buffers()])
    for stage in traced:
        for name, method in stage.named.items():
            require_few_operations(method.graph)
            methods[name] = method
        values |= stage.values
    values |= {name: known[name].detach() for name in forward.state}
    changed = {name for method in methods.values() for name in method.graph.mutated}
    numbers = {name: value for stage in traced for name, value in stage.numbers.items()}
    return build_methods(methods, values, [name for name in known if name in changed], numbers=numbers)


def _flash(written: Written, firmware: Firmware, form: InputForm | None, score: DriftScore | None) -> dict[str, int]:
    """Of program, loop and front end together, by core."""
    kind = INTEGERS if firmware.precision == "integer" else ""
    add = kind or (BYTES if firmware.sample_type == "int8" else "")
    entries = [f"lfwd_adapt{kind}", f"lfwd_samples_clear{kind}", f"lfwd_samples_add{add}"]
    entries += front_end_entries(form)
    entries += ["lfwd_drift_clear", "lfwd_drift_add"] if score else []
    source, moments = written.files["lfwd_model.c"], drift_bytes(score)[0]
    return {core: size + moments + loop_code(source, entries, core) for core, size in shipped_flash(written).items()}


def _loop_bytes(checked: Program, traced: list[TracedStage], program: StepProgram, firmware: Firmware) -> int:
    """Static memory of ``lfwd_adapt.c``: samples with their labels, the batch at hand, order, the undo copy, and what counts."""
    forward, weights = checked.methods["forward"], checked.methods["get_weights"].outputs
    size, classes = forward.inputs[0].count, 1 if firmware.anomalies is not None else forward.outputs[0].count
    tables = [stage.table(program.learned) for stage in traced]
    undo = max(sum(weights[i].nbytes for i in table.changes) for table in tables)
    integers = firmware.precision == "integer"
    value = 1 if integers else 4
    sample = size + 4 if firmware.sample_type == "int8" and not integers else value * size
    each = sample + 2 + 2  # label, place in the order
    bits = 2 * (-(-firmware.samples // 8))
    return firmware.samples * each + bits + value * size * max(t.batch for t in tables) + undo + 7 * (classes + 1) + 12
