"""The diagnosis tells what a rule does beside backpropagation, and leaves no trace in the training."""

import csv

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from method_table import CASES, NETS, ROWS, Task, loader, named_rows, tensors, trainer
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.callbacks.diagnosis.frozen_control import FrozenControl
from lightning_fwd.callbacks.diagnosis.report import angle, by_layer, relative_changes
from lightning_fwd.models import MLP


def fit(net, method, *callbacks, lr=0.05, count=48, **settings):
    torch.manual_seed(5)
    task = Task(net, lr)
    run = trainer(method, callbacks=list(callbacks), **settings)
    run.fit(task, loader(net, count=count), loader(net, count=count))
    return task, run


def make(kind):
    torch.manual_seed(1)
    return NETS[kind]()


HARDEST = [(row, row.nets[-1]) for row in ROWS]


@pytest.mark.parametrize(("row", "kind"), HARDEST, ids=[row.name for row in ROWS])
def test_training_is_the_same_bit_for_bit_with_and_without(row, kind):
    found = []
    for callbacks in ([], [lf.Diagnosis(every_n_steps=2)]):
        task, _ = fit(make(kind), row.method(), *callbacks, lr=row.lr)
        found.append((tensors(task), torch.rand(3)))  # the weights, all buffers, and where the generator stands
    (plain, drawn), (watched, drawn_too) = found
    assert plain.keys() == watched.keys() and all(torch.equal(plain[k], watched[k]) for k in plain)
    assert torch.equal(drawn, drawn_too)


BACKPROP = [(row, kind) for row, kind in CASES if row.name.startswith("backprop")]


@pytest.mark.parametrize(("row", "kind"), BACKPROP, ids=[f"{r.name}-{k}" for r, k in BACKPROP])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_backpropagation_s_own_angle_is_zero(row, kind, accumulated):
    """With dropout and batch norm in the way: the same masks, the same batch statistics."""
    seen = lf.Diagnosis(every_n_steps=1)
    fit(make(kind), row.method(), seen, accumulate_grad_batches=accumulated)
    assert len(seen.layers) >= 6 and all(line.cosine == pytest.approx(1.0, abs=1e-6) for line in seen.layers)
    if accumulated == 1:
        assert {line.cosine for line in seen.layers} == {1.0}
        assert all(line.update_norm == line.backprop_norm > 0 for line in seen.layers)
    assert all(line.relative_change > 0 for line in seen.layers if line.step == 2)


@pytest.mark.parametrize("kind", NETS)
def test_a_head_alone_is_zero_elsewhere(kind):
    seen = lf.Diagnosis(every_n_steps=1)
    fit(make(kind), lf.SparseUpdate(), seen)
    head = "head" if kind == "residual" else "classifier"
    for line in seen.layers:
        assert line.backprop_norm > 0  # though the layer is frozen
        if line.layer == head:
            assert line.cosine == pytest.approx(1.0, abs=1e-6) and line.relative_change > 0
        else:
            assert (line.cosine, line.angle, line.update_norm, line.relative_change) == (0.0, 90.0, 0.0, 0.0)


def test_pepita_is_neither_and_its_head_is_nearly_backpropagation_s():
    seen = lf.Diagnosis(every_n_steps=1)
    fit(make("mlp"), lf.Pepita(), seen)
    first = {line.layer: line for line in seen.layers if line.step == 1}
    assert first["classifier"].cosine > 0.99
    assert all(-0.9 < first[layer].cosine < 0.9 and first[layer].update_norm > 0 for layer in ("fc1", "fc2"))


def test_a_mirrored_feedback_shows_as_a_smaller_angle():
    angles = []
    for rounds in (0, 60):
        seen = lf.Diagnosis()
        fit(make("mlp"), lf.Pepita(mirror_rounds=rounds), seen)
        angles.append(next(line.angle for line in seen.layers if line.layer == "fc1"))
    assert angles[1] < angles[0] - 10


def test_the_user_s_own_loss_is_what_is_compared():
    """Not the cross-entropy: the error is read off the training step."""

    class Squares(Task):
        def training_step(self, batch, batch_idx):
            return (self(batch[0]) - F.one_hot(batch[1], 4)).square().mean()

    torch.manual_seed(1)
    seen, task = lf.Diagnosis(every_n_steps=1), Squares(MLP(16, (8,), 4))
    trainer(lf.Backprop(), callbacks=[seen]).fit(task, loader(task.network))
    assert {line.cosine for line in seen.layers} == {1.0}


# ---- gain over frozen features


@pytest.mark.parametrize("accumulated", [1, 4])
def test_the_control_is_training_the_head_alone(accumulated):
    """The callback's copy against a run whose rule is the head's gradient: same batches, optimizer and schedule."""

    class Scheduled(Task):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    torch.manual_seed(1)
    net = MLP(16, (12,), 4)
    start = tensors(net)
    seen, task = lf.Diagnosis(), Scheduled(net)
    trainer(lf.Pepita(), callbacks=[seen], max_epochs=3, accumulate_grad_batches=accumulated).fit(task, loader(net), loader(net))
    alone = MLP(16, (12,), 4)
    alone.load_state_dict(start)
    run = trainer(lf.SparseUpdate(), max_epochs=3, accumulate_grad_batches=accumulated)
    run.fit(Scheduled(alone), loader(alone))
    frozen = seen._control.model
    torch.testing.assert_close(frozen.get_parameter("classifier.weight"), alone.classifier.weight, rtol=1e-4, atol=1e-6)
    assert torch.equal(frozen.get_parameter("fc1.weight"), start["fc1.weight"]) and not torch.equal(net.fc1.weight, start["fc1.weight"])
    assert [line.stage for line in seen.gains] == ["val"] * 3
    assert all(line.gain == pytest.approx(line.accuracy - line.frozen_accuracy) for line in seen.gains)


def test_a_rule_that_only_trains_the_head_gains_nothing():
    seen = lf.Diagnosis()
    _, run = fit(MLP(16, (12,), 4), lf.SparseUpdate(), seen, max_epochs=3)
    assert {line.gain for line in seen.gains} == {0.0} and seen.gains[-1].accuracy > 50
    assert run.callback_metrics["diagnosis/gain/val"] == 0


def test_the_test_part_is_measured_too_and_the_learning_rate_is_the_control_s_own():
    seen = lf.Diagnosis(frozen_lr=0.0)
    task, run = fit(MLP(16, (12,), 4), lf.Backprop(), seen, max_epochs=4)
    run.test(task, loader(task.network), verbose=False)
    last = seen.gains[-1]
    assert last.stage == "test" and last.gain > 20
    assert run.callback_metrics["diagnosis/gain/test"] == pytest.approx(last.gain)


def test_a_resumed_run_counts_from_the_first_start(tmp_path):
    def run(net, epochs, **more):
        seen = lf.Diagnosis(every_n_steps=1)
        torch.manual_seed(5)
        made = trainer(lf.Pepita(), callbacks=[seen], max_epochs=epochs)
        made.fit(Task(net), loader(net), loader(net), weights_only=True, **more)
        return seen, made

    whole, _ = run(make("mlp"), 2)
    _, first = run(make("mlp"), 1)
    first.save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(9)
    rest, _ = run(MLP(16, (24, 20), 4), 2, ckpt_path=tmp_path / "half.ckpt")  # of other weights, before they are restored
    assert rest.layers == [line for line in whole.layers if line.epoch == 1]
    assert rest.gains == whole.gains[1:]


# ---- files and logs


def test_files_plot_and_keys(tmp_path):
    seen = lf.Diagnosis(every_n_steps=2)
    _, run = fit(make("mlp"), lf.Pepita(), seen, max_epochs=2, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    folder = tmp_path / "lightning_logs" / "version_0"
    rows = list(csv.DictReader((folder / "diagnosis.csv").open()))
    assert [(int(r["step"]), r["layer"]) for r in rows] == [(s, n) for s in (1, 3, 5) for n in ("fc1", "fc2", "classifier")]
    assert float(rows[0]["angle"]) == pytest.approx(seen.layers[0].angle, rel=1e-4)
    gains = list(csv.DictReader((folder / "frozen_features.csv").open()))
    assert [r["stage"] for r in gains] == ["val", "val"]
    assert (folder / "diagnosis.png").read_bytes().startswith(b"\x89PNG")
    header = set((folder / "metrics.csv").read_text().splitlines()[0].split(","))
    assert {"diagnosis/angle/fc1", "diagnosis/change/classifier", "diagnosis/gain/val", "diagnosis/frozen_accuracy/val"} <= header


def test_from_the_command_line(tmp_path, monkeypatch):
    from lightning_fwd.cli import main

    monkeypatch.chdir(tmp_path)
    arguments = [
        "fit", "--trainer.strategy", "pepita", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.logger", "false",
        "--trainer.enable_checkpointing", "false", "--trainer.enable_progress_bar", "false", "--trainer.limit_train_batches", "3",
        "--model.model_args", "{hidden: [8]}", "--data.flatten", "true", "--trainer.callbacks", "lightning_fwd.Diagnosis",
        "--trainer.callbacks.dirpath", str(tmp_path / "seen"),
    ]  # fmt: skip
    assert main(arguments) == 0
    stages = [row["stage"] for row in csv.DictReader((tmp_path / "seen" / "frozen_features.csv").open())]
    assert stages == ["val", "test"]


@pytest.mark.parametrize("name", named_rows())
def test_every_rule_under_autocast(name):
    seen, row = lf.Diagnosis(), named_rows()[name]
    fit(make(row.nets[0]), row.method(), seen, precision="bf16-mixed")
    assert seen.layers and all(-1 <= line.cosine <= 1 for line in seen.layers)


def test_bad_arguments(tmp_path):
    with pytest.raises(lf.LightningFwdError, match="every_n_steps"):
        lf.Diagnosis(every_n_steps=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(lf.LightningFwdError, match="cannot write"):
        fit(make("mlp"), lf.Pepita(), lf.Diagnosis(dirpath=tmp_path / "file"))
    with pytest.raises(lf.LightningFwdError, match="backprop"):
        fit(make("mlp"), "auto", lf.Diagnosis())


# ---- the numbers


def test_cosine_norms_and_change_are_what_they_say():
    gradients = {
        "a.weight": (torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.0]])),
        "a.bias": (torch.tensor([0.0]), torch.tensor([2.0])),
        "b.weight": (torch.tensor([1.0, 1.0]), torch.tensor([-2.0, -2.0])),
        "weight": (torch.zeros(2), torch.ones(2)),
    }
    found = by_layer(gradients)
    assert list(found) == ["a", "b", "(network)"] and found["a"] == (0.0, 3.0, 2.0)
    assert found["b"] == pytest.approx((-1.0, 2**0.5, 8**0.5)) and found["(network)"] == pytest.approx((0.0, 0.0, 2**0.5))
    assert (angle(0.0), angle(1.0), angle(-1.0000001)) == (pytest.approx(90), 0, pytest.approx(180))
    start = {"a.weight": torch.tensor([3.0, 4.0]), "b.weight": torch.zeros(1), "c.weight": torch.zeros(1)}
    now = {"a.weight": torch.tensor([3.0, 3.0]), "b.weight": torch.zeros(1), "c.weight": torch.ones(1)}
    assert relative_changes(now, start) == {"a": pytest.approx(0.2), "b": 0.0, "c": float("inf")}


def test_the_control_takes_the_run_s_kind_of_optimizer():
    net = MLP(16, (8,), 4)
    model = lf.rewrite(net, lf.Pepita(), torch.zeros(2, 16))
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop):
        control = FrozenControl(model, kind(net.parameters(), lr=0.01), None)
        before = control.model.get_parameter("classifier.weight").clone()
        control.step((torch.rand(4, 16), torch.arange(4)))
        assert type(control.optimizer) is kind and not torch.equal(before, control.model.get_parameter("classifier.weight"))
        assert net.classifier.weight.grad is None


@pytest.mark.parametrize(("frozen_lr", "expected"), [(None, 0.2), (0.5, 0.5)])
def test_the_control_learns_as_the_group_that_holds_the_head(frozen_lr, expected):
    net = MLP(16, (8,), 4)
    model = lf.rewrite(net, lf.Pepita(), torch.zeros(2, 16))
    groups = [{"params": net.fc1.parameters()}, {"params": net.classifier.parameters(), "lr": 0.2, "momentum": 0.5}]
    optimizer = torch.optim.SGD(groups, 0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=2)
    control = FrozenControl(model, optimizer, frozen_lr)
    for factor in (0.01, 0.505, 1.0):
        control.follow_schedule()
        control.step((torch.rand(4, 16), torch.arange(4)))
        (group,) = control.optimizer.param_groups
        assert group["lr"] == pytest.approx(factor * expected) and group["momentum"] == 0.5
        optimizer.step(), schedule.step()


def test_a_folded_network_is_copied_with_what_it_computes():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 4))
    net[1].running_var.fill_(4.0)
    x = torch.rand(5, 1, 8, 8)
    expected = net.eval()(x)
    model = lf.rewrite(net, lf.Pepita(batch_norm="fold"), x)
    control = FrozenControl(model, torch.optim.SGD(net.parameters(), 0.1), None)
    torch.testing.assert_close(control.predict(x), expected)


def in_parts(task, x, y):
    return (F.cross_entropy(task(x[:9]), y[:9], reduction="sum") + F.cross_entropy(task(x[9:]), y[9:], reduction="sum")) / len(y)


def handed_over(task, x, y):
    p = torch.arange(len(y)).roll(3)
    labels = lf.set_labels(y[p])
    return F.cross_entropy(task(x[p]), labels)


def beside_a_teacher(task, x, y):
    loss = F.cross_entropy(task(x), y)
    with torch.no_grad():
        task(x.flip(0))
    return loss


OWN = {
    "in parts": in_parts,
    "handed over": handed_over,
    "beside a teacher": beside_a_teacher,
    "of some": lambda task, x, y: F.cross_entropy(task(x), torch.where(y == 1, -100, y)),  # the control has no need to know which
}
ELSEWHERE = {
    "permuted": lambda task, x, y: F.cross_entropy(task(x.roll(1, 0)), y.roll(1)),
    "another class": lambda task, x, y: F.cross_entropy(task(x), (y + 1) % 4),
    "a part alone": lambda task, x, y: F.cross_entropy(task(x[:9]), y[:9]),
}


def watched(step):
    torch.manual_seed(5)
    net, seen = make("mlp"), lf.Diagnosis(plot=False)
    task = type("Own", (Task,), {"training_step": lambda self, batch, _: step(self, *batch)})(net)
    trainer("backprop", callbacks=[seen], max_epochs=3).fit(task, loader(net), loader(net))
    return seen


@pytest.mark.parametrize("kind", OWN)
def test_the_control_learns_what_the_loss_is_on(kind):
    plain, own = watched(lambda task, x, y: F.cross_entropy(task(x), y)), watched(OWN[kind])
    if kind != "of some":
        assert own.gains[-1].frozen_accuracy == pytest.approx(plain.gains[-1].frozen_accuracy, abs=2)
    assert own.gains[-1].frozen_accuracy > 40


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_without_the_loss_s_labels_there_is_no_control(kind):
    with pytest.warns(UserWarning, match="no control with frozen features(.|\n)*set_labels"):
        assert not watched(ELSEWHERE[kind]).gains
