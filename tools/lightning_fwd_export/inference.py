"""A network as it is, to be run and not to learn: checked program, C and board report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.traceback import preserve_node_meta

from lightning_fwd.cost.operations import operations
from lightning_fwd.cost.schedule import schedule
from lightning_fwd.cost.widths import Widths
from lightning_fwd.data.inputs import InputForm
from lightning_fwd.graph.rewritten import RewrittenModel
from lightning_fwd.models.weights import require_finite
from lightning_fwd.trace.step_graph import trace_inference

from .boards import PACKAGES, missing_tools, run_on_board
from .boards import board as find_board
from .c_code.prepare import add_prepare
from .check import example_inputs
from .code_size import shipped_flash, shipped_ram
from .errors import ExportError, NoKernel
from .folder import clear_export, require_folder, write_report
from .foreign import as_export_errors, require_network
from .fuse_step import fuse_layers
from .generate_c import PREFIX, require_prefix, translate, write_sources
from .host.runtime import HostProgram
from .locate import source_line
from .program import Method, State, StepProgram, as_module, float_config, label, serialise
from .quiet import quiet
from .unrolled import require_few_steps


@dataclass
class InferenceReport:
    """What was exported and what it measured.

    Attributes:
        program: path of the .pte. code: folder of the C sources.
        samples: inputs that it was checked on.
        difference: largest difference of the host runtime to PyTorch (of an int8 program: to PyTorch's run of the same integers, in units
            of the last place; it must be 0).
        relative_error: of an int8 program against the float network, root mean square over root mean square.
        same_predictions: of an int8 program, the share of samples whose largest output is that of the float network; None where the network
            says that it has no classes.
        activations_bytes: planned.
        ram_bytes, flash_bytes: static memory, and constants and code by core, of the program as generated; see
            :class:`~.export_step.ExportReport`.
        ledger: ``shipped_ram_bytes``, ``shipped_constants_bytes``, ``shipped_flash_bytes`` as for a training step; of the cost ledger
            ``scheduled_ram_bytes`` (the ideal of fused and reordered loops) and ``macs``.
        board: figures of the run on the emulated board, empty without one.
    """

    program: str
    code: str
    samples: int
    difference: float
    relative_error: float | None
    same_predictions: float | None
    activations_bytes: int
    ram_bytes: dict[str, int] = field(default_factory=dict)
    flash_bytes: dict[str, int] = field(default_factory=dict)
    ledger: dict[str, int] = field(default_factory=dict)
    board: dict[str, object] = field(default_factory=dict)


@quiet()
@as_export_errors()
def export_inference(
    net: nn.Module,
    example: Tensor,
    out_dir: str | Path,
    board: str | None = None,
    run: bool = False,
    calibration: Iterable[Tensor] | None = None,
    int8: bool = False,
    inputs: Iterable[Tensor] | None = None,
    samples: int = 50,
    prefix: str = PREFIX,
    form: InputForm | None = None,
    progress: Callable[[str], None] = lambda phase: None,
) -> tuple[StepProgram, InferenceReport]:
    """Export a network's prediction alone, float or int8.

    Args:
        net: any network that the exporter has kernels for; put in eval mode while it is exported.
        example: one input batch ``(B, ...)``; the program takes this shape.
        out_dir: gets ``inference.pte``, ``c/`` and ``report.json``.
        board, run: with ``run``, predict on this board's emulator; the C itself is the same for every board.
        calibration: input batches for int8. int8: quantise the whole network; input and output are int8 then, scale and zero point in the
            header.
        inputs: real batches for the check and the board; without them the example with noise.
        samples: how many of them.
        prefix, form: as of :func:`lightning_fwd_export.export`.
        progress: is told each phase as it begins.

    Raises:
        ExportError: an operator has no kernel, or the program differs from PyTorch. Nothing is written then.
        LightningFwdError: a weight is not finite.
    """
    if isinstance(net, RewrittenModel):
        raise ExportError(
            "a rewritten model is exported with its training step", "", "lf.unwrap(model) gives the network with its trained weights"
        )
    if (board is None) == run:
        raise ExportError("board and run belong together", "the C is the same for every board", "give both (--board NAME --run) or neither")
    if samples < 1:
        raise ExportError(f"samples={samples}", "the program is held against PyTorch on them", "use samples >= 1")
    if calibration is not None and not int8:
        raise ExportError("calibration without int8", "a float program has no ranges to find", "give int8=True, or leave calibration out")
    require_network(net, example)
    require_prefix(prefix)
    require_finite(net.state_dict())
    require_folder(Path(out_dir))
    target = find_board(board) if board else None
    if missing := target and missing_tools():
        raise ExportError(f"not installed: {', '.join(missing)}", "board runs need them", PACKAGES)
    batches = list(inputs)[:samples] if inputs is not None else list(example_inputs(example, samples))
    if not batches or any(x.shape != example.shape for x in batches):
        raise ExportError(
            "inputs of another shape than the example's, or none", f"the program takes {tuple(example.shape)}", "give such batches"
        )
    modes = [(m, m.training) for m in net.modules()]
    net.eval()
    try:
        _require_run(net, example)
        require_few_steps(net, example)
        try:
            program, checked, written = _build(net, example, calibration, int8, progress)
            progress(f"holding {len(batches)} predictions against PyTorch")
            calls, report = _check(program, net, batches, int8)
        except NoKernel as error:
            raise error.at(source_line(net, error.layer), int8) from error
        progress("pricing the prediction")
        report.ram_bytes, report.flash_bytes = shipped_ram(written), shipped_flash(written)
        report.ledger = _ledger(net, example, int8) | {
            "shipped_ram_bytes": sum(report.ram_bytes.values()),
            "shipped_constants_bytes": written.constants,
            "shipped_flash_bytes": report.flash_bytes[target.cpu if target else "Cortex-M4"],
        }
    finally:
        for m, mode in modes:
            m.training = mode
    out = Path(out_dir)
    add_prepare(written.files, form, checked)
    report.program, report.code = str(out / "inference.pte"), str(out / "c")
    if target is not None:
        progress(f"predicting on {target.name}")
        with tempfile.TemporaryDirectory() as folder:  # without the prefix
            write_sources(written.files, folder)
            measured = run_on_board(folder, target, checked, [("forward", (x,)) for x, _ in calls])
        pairs = zip(measured.outputs, calls, strict=True)
        worst = max(float(np.abs(o[0].astype("f8") - y.double().numpy()).max()) for o, (_, y) in pairs)
        report.board = {
            "board": target.name,
            "cpu": target.cpu,
            "instructions_per_inference": measured.instructions_per("forward"),
            "flash_bytes": measured.flash,
            "flash_constants_bytes": measured.constants,
            "ram_bytes": measured.ram,
            "stack_bytes": max(measured.stack.values()),
            "difference_to_host": worst,
        }
    clear_export(out)
    write_sources(written.files, out / "c", prefix)
    (out / "inference.pte").write_bytes(program.data)
    write_report(report, out)
    return program, report


def _require_run(net: nn.Module, example: Tensor) -> None:
    """Refuse a network that fails on the example, before a tracer says it in a hundred lines."""
    try:
        with torch.no_grad():
            got = net(example)
    except Exception as error:
        raise ExportError(
            f"{type(net).__name__} fails on an input of shape {tuple(example.shape)}, {example.dtype}",
            f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}",
            "give an example as the network takes it: shape (B, ...), dtype",
        ) from error
    if not isinstance(got, Tensor):
        raise ExportError(
            f"{type(net).__name__}.forward returns {type(got).__name__}, not one tensor",
            "the program's forward has one output",
            "wrap the network in a module that returns what is wanted",
        )


def _build(net: nn.Module, example: Tensor, calibration, int8: bool, progress: Callable[[str], None]):
    """The program, what ``read_program`` makes of it, and its C."""
    if int8:
        from .int8 import int8_inference

        progress("quantising the network")
        edge = int8_inference(net, calibration or [], example)
        numbers = dict(edge._config_methods or {})
    else:
        from executorch.exir import to_edge

        progress("tracing the prediction")
        step = trace_inference(net, example)
        fuse_layers(step.module)
        values = dict([*net.named_parameters(), *net.named_buffers()])
        body = as_module(step, State({name: values[name] for name in step.state}, ()), ["logits"])
        with preserve_node_meta():
            exported = torch.export.export(Method(body), (example,), strict=False)
        edge, numbers = to_edge({"forward": exported}, compile_config=float_config()), {}
    reference = edge.exported_program("forward").module()
    label(edge.exported_program("forward").graph)
    data, arenas = serialise(edge, numbers, [])
    program = StepProgram(data, [], [], {"forward": arenas["forward"]}, numbers, reference)
    checked, written = translate(data, "inference.pte")
    return program, checked, written


def _check(program: StepProgram, net: nn.Module, batches: list[Tensor], int8: bool) -> tuple[list[tuple[Tensor, Tensor]], InferenceReport]:
    """Inputs and outputs of the host runtime, held against PyTorch."""
    host, calls, worst, noise, signal, same = HostProgram(program.data), [], 0.0, 0.0, 0.0, []
    for k, x in enumerate(batches):
        with torch.no_grad():
            exact = net(x)
            if int8:
                from .mixed import quantise_input

                x = quantise_input(x, program.numbers, "forward")
                expected = program.reference(x)
                expected = expected[0] if isinstance(expected, tuple | list) else expected
            else:
                expected = exact
        got = host.run("forward", x)[0]
        calls.append((x, got))
        difference = float((got.double() - expected.double()).abs().max())
        allowed = 0.0 if int8 else 1e-4 * max(1.0, float(expected.abs().max()))
        if not difference <= allowed:
            raise ExportError(
                f"prediction {k} differs from PyTorch by {difference:.3g} (allowed {allowed:.3g})",
                "the program would not predict what the network predicts, so nothing is written",
                "this is a defect worth reporting, with the network",
            )
        worst = max(worst, difference)
        if int8:
            real = (got.double() - program.numbers["forward_output0_zp"]) * program.numbers["forward_output0_scale"]
            noise += float((real - exact.double()).square().sum())
            signal += float(exact.double().square().sum())
            same.append((real.flatten(1).argmax(1) == exact.flatten(1).argmax(1)).float().mean())
    classes = int8 and getattr(net, "num_classes", exact.shape[-1]) is not None
    return calls, InferenceReport(
        "",
        "",
        len(calls) * batches[0].shape[0],
        worst,
        (noise / max(signal, 1e-30)) ** 0.5 if int8 else None,
        float(torch.stack(same).mean()) if classes else None,
        program.arenas["forward"][0],
    )


_CONVOLUTIONS = (torch.ops.aten.convolution.default,)


def _ledger(net: nn.Module, example: Tensor, int8: bool) -> dict[str, int]:
    step, width = trace_inference(net, example), "int8" if int8 else "fp32"
    if int8:  # a convolution pads by itself (lower_int8.fuse_padding)
        for node in step.graph.nodes:
            if node.target is torch.ops.aten.constant_pad_nd.default and all(u.target in _CONVOLUTIONS for u in node.users):
                node.meta["streamed"] = True
    return {
        "scheduled_ram_bytes": schedule(step, width)[1][-1][1].peak_bytes,
        "macs": sum(op.macs for op in operations(step, Widths(step, width))),
    }
