"""Every rule's training step as a program: 50 steps on ExecuTorch's host runtime equal PyTorch (``export`` raises if not)."""

import copy
import ctypes
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from lightning_fwd_export import ExportError
from lightning_fwd_export.check import check_program, example_batches
from lightning_fwd_export.host.runtime import HostProgram, compiler
from lightning_fwd_export.reference import InDouble, compare, is_chaotic
from lightning_fwd_export.seal import is_sealed
from tiny_exports import export_module, tiny

import lightning_fwd as lf
from lightning_fwd.methods import SparseTraining, ZerothOrder

ROWS = [
    pytest.param("mlp", lf.Backprop(), marks=pytest.mark.slow),  # on a board: test_boards.py
    pytest.param("mlp", lf.SparseUpdate(), marks=pytest.mark.slow),
    pytest.param("mlp", lf.ForwardForward(), marks=pytest.mark.slow),
    pytest.param("mlp", lf.LocalLoss(), marks=pytest.mark.slow),
    pytest.param("mlp", lf.Pepita(), marks=pytest.mark.slow),
    pytest.param("conv", lf.SparseUpdate(train="head"), marks=pytest.mark.slow),
    ("conv", lf.Pepita(recompute=True)),
    pytest.param("conv", lf.Backprop(batch_norm="freeze"), marks=pytest.mark.slow),
    pytest.param("conv", lf.ForwardForward(), marks=pytest.mark.slow),
    pytest.param("conv", lf.LocalLoss(), marks=pytest.mark.slow),
    pytest.param("conv", lf.Statistics(), marks=pytest.mark.slow),
    pytest.param("mlp", lf.Pepita(recompute=True), marks=pytest.mark.slow),
    pytest.param("mlp", SparseTraining(fraction=0.0), marks=pytest.mark.slow),
    pytest.param("mlp", lf.Pepita(feedback="regenerated"), marks=pytest.mark.slow),
    pytest.param("mlp", lf.SparseUpdate(2, channels=0.5), marks=pytest.mark.slow),
    pytest.param("mlp", lf.SparseUpdate("biases"), marks=pytest.mark.slow),
    ("mlp", ZerothOrder()),
    ("mlp", ZerothOrder(samples=3, scale=0.1, estimator="ranks", loss="cross_entropy")),
    pytest.param("mlp", ZerothOrder(samples=2, scale=0.1, loss="entropy"), marks=pytest.mark.slow),
    pytest.param("mlp", ZerothOrder(samples=2, scale=0.1, estimator="ranks", loss="error_rate"), marks=pytest.mark.slow),
]


def host_library(code, work, flags="-O1"):
    library = work / "liblfwd.so"
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wconversion", *flags.split()]
    sources = [str(code / "lfwd_model.c"), *map(str, sorted((code / "kernels").glob("*.c")))]
    include = [f"-I{code}", f"-I{code / 'kernels'}"]
    subprocess.run([compiler("gcc"), *strict, "-fPIC", "-shared", *include, *sources, "-o", str(library), "-lm"], check=True)
    return ctypes.CDLL(str(library))


@pytest.mark.parametrize(("network", "method"), ROWS, ids=str)
def test_fifty_steps_equal_pytorch_and_the_generated_c(exported, tmp_path, network, method):
    program, report, out = exported(network, method, steps=50)
    most = 2e-5 if isinstance(method, lf.ZerothOrder) else 1e-5  # it divides what rounding leaves by its scale; processors differ
    assert report.steps == 50 and report.weight_difference <= most and is_sealed(program.data)
    library = host_library(out / "c", tmp_path)
    host = HostProgram(program.data)
    library.lfwd_init()
    model, batch = tiny(network, method)
    takes_target = host.methods["train_step"].metadata.num_inputs() == 2
    loss, logits = np.zeros(1, "f4"), np.zeros((3, 4), "f4")
    pointer = lambda a: a.ctypes.data_as(ctypes.c_void_p)  # noqa: E731
    for x, y in example_batches(batch, 4, 50):
        inputs = (x, y) if takes_target else (x,)
        expected = host.run("train_step", *inputs)
        library.lfwd_train_step(*(pointer(np.ascontiguousarray(t.numpy())) for t in inputs), pointer(loss), pointer(logits))
        assert abs(loss[0] - expected[0].item()) <= 1e-5 * max(1.0, abs(loss[0]))
    weights = np.zeros(sum(w.numel() * w.element_size() for w in host.run("get_weights")), "u1")
    library.lfwd_get_weights(pointer(weights))
    at = 0
    for tensor in host.run("get_weights"):
        size = tensor.numel() * tensor.element_size()
        got = torch.frombuffer(weights[at : at + size].tobytes(), dtype=tensor.dtype).reshape(tensor.shape)
        torch.testing.assert_close(got, tensor, rtol=1e-5, atol=1e-5)
        at += size


def test_momentum_and_the_step_without_a_gradient_tensor(exported):
    program, report, _ = exported("mlp", lf.Backprop(), momentum=0.9, steps=50)
    assert report.weight_difference <= 1e-5
    weights = sum(p.numel() * 4 for p in tiny("mlp", lf.Backprop())[0].parameters())
    assert report.state_bytes == pytest.approx(2 * weights, abs=16 * 12)  # weights and momentum, each buffer aligned to 16 bytes
    assert report.activations_bytes < 20 * 16 * 4 + 3 * 4 * (20 + 16 + 16 + 12 + 12 + 4) * 2  # no weight gradient beside the activations


def test_the_exporter_loads_by_itself():
    """Nothing else was imported before: the rules' operators are defined by then."""
    subprocess.run([sys.executable, "-c", "from lightning_fwd_export import BOARDS, export"], check=True)


def test_the_model_is_left_as_it_was():
    model, batch = tiny("mlp", lf.Pepita())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    program, _ = export_module.build(model, batch, torch.nn.functional.cross_entropy, 0.05, 0.0, None, False)
    model.eval()
    check_program(program, model, example_batches(batch, 4, 3), True, 0.05, 0.0, torch.nn.functional.cross_entropy)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and not model.training


def test_a_program_that_learns_otherwise_is_refused():
    model, batch = tiny("mlp", lf.Backprop())
    loss = torch.nn.functional.cross_entropy
    program, _ = export_module.build(model, batch, loss, 0.05, 0.0, None, False)
    with pytest.raises(ExportError, match="differ from PyTorch"):
        check_program(program, model, example_batches(batch, 4, 5), True, 0.06, 0.0, loss)


def test_rounding_that_grew_is_judged_by_float64(monkeypatch):
    """At a rate where PyTorch itself leaves float64, the fixed tolerance alone would refuse a good program."""
    model, batch = tiny("mlp", lf.Backprop(batch_norm="freeze"))
    loss = torch.nn.functional.cross_entropy
    program, _ = export_module.build(model, batch, loss, 0.5, 0.9, None, False)
    batches = list(example_batches(batch, 4, 100))
    check = check_program(program, model, batches, True, 0.5, 0.9, loss)
    assert check.weights > 2e-5 and check.steps == 100
    monkeypatch.setattr(InDouble, "step", lambda *_: (None, None))
    monkeypatch.setattr(InDouble, "tensors", lambda _: {})
    with pytest.raises(ExportError, match="differ from PyTorch"):
        check_program(program, model, batches, True, 0.5, 0.9, loss)


def test_what_rounding_does_not_explain_is_refused():
    exact = torch.tensor([1.0, 2.0], dtype=torch.float64)
    expected = (exact + 1e-4).float()
    assert compare(0.0, (exact - 5e-4).float(), expected, "x", 1e-5, exact) == pytest.approx(6e-4, rel=1e-2)
    for got, given in (((exact + 2e-3).float(), exact), ((exact - 5e-4).float(), None), (torch.full((2,), torch.nan), exact)):
        with pytest.raises(ExportError, match="x differ from PyTorch"):
            compare(0.0, got, expected, "x", 1e-5, given)
    assert is_chaotic(expected + 1, exact) and not is_chaotic(expected, exact) and not is_chaotic(expected + 1, None)


def test_weights_that_never_reached_the_program_are_refused():
    """What a missing InitializedMutableBufferPass does: the program starts from other weights."""
    model, batch = tiny("mlp", lf.Backprop())
    loss = torch.nn.functional.cross_entropy
    program, _ = export_module.build(model, batch, loss, 0.05, 0.0, None, False)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.layer1.weight.zero_()
    with pytest.raises(ExportError, match="differ from PyTorch"):
        check_program(program, other, example_batches(batch, 4, 2), True, 0.05, 0.0, loss)


def test_nothing_is_written_when_the_check_fails(tmp_path, monkeypatch):
    model, batch = tiny("mlp", lf.Backprop())
    build = export_module.build

    def with_stale_weights(*arguments):
        program, step = build(*arguments)
        return dataclasses.replace(program, learned=program.learned[::-1]), step

    monkeypatch.setattr(export_module, "build", with_stale_weights)
    with pytest.raises((ExportError, RuntimeError)):
        export_module.export(model, batch, tmp_path / "out", steps=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"run": True}, "needs a board"),
        ({"board": "arduino", "run": True}, "no board 'arduino'"),
        ({"board": "mps2-an386"}, "without run=True"),
        ({"int8": True}, "int8 needs a frozen part"),
        ({"steps": 0}, "steps >= 1"),
        ({"lr": float("nan")}, "lr > 0"),
        ({"momentum": 1.5}, "momentum < 1"),
        ({"batches": []}, "no batches"),
        ({"batches": [(torch.zeros(3, 20), torch.tensor([0, 1, 4]))]}, "labels from 0 to 4.*4 classes"),
        ({"batches": [(torch.zeros(2, 20), torch.tensor([0, 1]))]}, r"batch 0 has shapes \(2, 20\)"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    model, batch = tiny("mlp", lf.Backprop())
    with pytest.raises(ExportError, match=f"(?s){message}"):
        export_module.export(model, batch, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_plain_model_is_refused(tmp_path):
    with pytest.raises(ExportError, match="lf.rewrite"):
        export_module.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)), tmp_path)
