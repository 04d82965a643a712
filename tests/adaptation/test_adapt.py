"""Stages in order, guarded: what helps is kept, what harms is rolled back and named, and the network given stays as it was."""

from __future__ import annotations

import copy
import dataclasses
import sys

import numpy as np
import pytest
import torch
from method_table import Task, clusters, loader, trainer
from torch import Tensor, nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.adaptation.guard import SCALES, Verdict, judge, read_samples, split
from lightning_fwd.adaptation.result import StageResult
from lightning_fwd.adaptation.train import train
from lightning_fwd.models import SmallConv


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """Trained on the clusters of the table."""
    torch.manual_seed(0)
    module = Task(SmallConv(1, (6, 8), 4), lr=0.05)
    trainer("backprop", max_epochs=10).fit(module, loader(module.network))
    return lf.unwrap(module).network.eval()


def drifted(net: nn.Module, count: int = 96) -> tuple[Tensor, Tensor]:
    x, y = clusters(net, count)
    return 0.3 * x - 1.0, y


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((net(x).argmax(1) == y).float().mean())


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def unchanged(net: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_stages_win_back_what_drift_took(net, tmp_path):
    x, y = drifted(net)
    before = state(net)
    source = lf.source_moments(net, [clusters(net)], tmp_path / "net")
    stages = [lf.Alignment(source, samples=96), lf.Stage("sparse_update", {"train": "head"}, lr=[0.01, 0.1], head="blocks", name="head")]
    done = lf.adapt(net, stages, (x, y))
    assert accuracy(net, x, y) < 0.6 and accuracy(done.network, x, y) > 0.9
    assert [s.name for s in done.stages] == ["alignment", "head"] and done.stages[0].kept and done.stages[0].judged_on == 96
    assert done.stages[1].judged_on == 32 and done.stages[0].after < done.stages[0].before
    assert unchanged(net, before) and not done.network.training
    assert all(not hasattr(m, "_lfwd") for m in done.network.modules())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_learns_wherever_it_is_called(net, mode):
    stages = ["statistics", lf.Stage("sparse_update", {"train": "head"}, epochs=1)]
    expected = lf.adapt(net, stages, drifted(net)).network
    with mode():
        assert unchanged(lf.adapt(net, stages, drifted(net)).network, expected.state_dict())


def test_what_harms_is_rolled_back_and_named(net):
    """At home recomputed statistics of two classes alone harm; so does a rate that is far too high."""
    x, y = clusters(net)
    before = state(net)
    few = y < 2
    wild = lf.Stage(lf.SparseUpdate(2), lr=1e4, name="wild")
    done = lf.adapt(net, ["statistics", wild], (x, y), unlabelled=10 + 5 * x[few].repeat(9, 1, 1, 1))
    assert done.rolled_back == ["statistics", "wild"] and "harm" in done.stages[0].note and "statistics: rolled back" in str(done)
    assert unchanged(done.network, before)


def test_a_rate_that_diverges_is_left_for_one_that_does_not(net):
    x, y = drifted(net)
    stage = lf.Stage(lf.SparseUpdate(2), lr=[float("1e30"), 0.02], momentum=0.0)
    done = lf.adapt(net, [stage], (x, y))
    assert done.stages[0].kept and done.stages[0].chosen == "lr 0.02"
    done = lf.adapt(net, [lf.Stage(lf.SparseUpdate(2), lr=1e30)], (x, y))
    assert done.rolled_back == ["sparse_update"] and unchanged(done.network, net.state_dict())


def test_without_labels_nothing_guards_and_entropy_chooses(net, tmp_path):
    x, _ = drifted(net)
    source = lf.source_moments(net, [clusters(net)], tmp_path / "net")
    done = lf.adapt(net, [lf.Alignment(source, samples=96)], x)
    assert done.stages[0].kept and "not guarded" in done.stages[0].note and done.stages[0].chosen.startswith("strength ")
    with pytest.raises(lf.LightningFwdError, match="learns from labels and got none"):
        lf.adapt(net, ["statistics", "sparse_update"], x)


def test_the_best_of_the_settings_named_is_taken(net, tmp_path):
    """Of alignment by the loss of the labels; of a rule that learns beside its rates, by the loss of the labels held back."""
    x, y = drifted(net)
    source = lf.source_moments(net, [clusters(net)], tmp_path / "net")
    strengths = (0.0, 0.25, 1.0)
    alone = [lf.adapt(net, [lf.Alignment(source, strength=s, samples=96)], (x, y)) for s in strengths]
    best = min(range(3), key=lambda i: alone[i].stages[0].after)
    done = lf.adapt(net, [lf.Stage(lf.Alignment(source, samples=96), choose=[{"strength": s} for s in strengths])], (x, y))
    assert unchanged(done.network, alone[best].network.state_dict()) and done.stages[0].chosen == f"strength {strengths[best]}"
    layers = [{"train": "head"}, {"train": ["stage1"]}]
    done = lf.adapt(net, [lf.Stage("sparse_update", choose=layers, lr=[0.01, 0.1], epochs=2)], (x, y), refit=False).stages[0]
    each = [lf.Stage("sparse_update", trained, lr=lr, epochs=2) for trained in layers for lr in (0.01, 0.1)]
    each = [lf.adapt(net, [stage], (x, y), refit=False).stages[0] for stage in each]
    assert done.after == min(one.after for one in each) and done.chosen.startswith("lr 0.") and ", train " in done.chosen


def test_what_may_be_chosen_is_priced(net, tmp_path):
    source, x = lf.source_moments(net, [clusters(net)], tmp_path / "net"), torch.zeros(1, 1, 8, 8)

    def priced(*strengths: float) -> lf.adaptation.StageCost:
        stage = lf.Stage(lf.Alignment(source), choose=[{"strength": s} for s in strengths])
        return lf.adaptation_cost(net, [stage], x, labelled=90, device="stm32h735").stages[0]

    norms, maps, both = priced(0.0), priced(1.0), priced(0.0, 1.0)
    without = 90 * lf.adaptation_cost(net, ["statistics"], x, labelled=90).inference_macs  # judged once without the stage
    assert both.macs == norms.macs + maps.macs - without and norms.macs < maps.macs
    assert both.rollback_bytes == maps.rollback_bytes > norms.rollback_bytes and both.peak_ram_bytes == maps.peak_ram_bytes


def test_kept_stages_learn_from_all_labels_in_the_end(net):
    x, y = drifted(net)
    stage = lf.Stage(lf.SparseUpdate("head"), lr=0.05, epochs=10)
    done = lf.adapt(net, [stage], (x, y), seed=4)
    expected = train(net, next(stage.candidates()), x, y, 4)
    assert done.stages[0].kept and unchanged(done.network, expected.state_dict())
    kept, _ = split(y, 1 / 3, 4)
    tried = lf.adapt(net, [stage], (x, y), seed=4, refit=False).network
    assert unchanged(tried, train(net, next(stage.candidates()), x[kept], y[kept], 4).state_dict())


@pytest.mark.parametrize("end", ["worse", "diverged"])
def test_a_last_run_that_ends_worse_is_not_taken(net, end, monkeypatch):
    x, y = drifted(net)
    stages = [lf.Stage(lf.SparseUpdate("head"), lr=0.05, epochs=10)]
    tried = lf.adapt(net, stages, (x, y), refit=False).network

    def unstable(state, stage, samples, labels, seed):
        done = train(state, stage, samples, labels, seed)
        if len(samples) == len(x):
            if end == "diverged":
                raise lf.StepError("the loss is nan")
            done.classifier.weight.data.neg_()
        return done

    monkeypatch.setattr(sys.modules["lightning_fwd.adaptation.adapt"], "train", unstable)
    done = lf.adapt(net, stages, (x, y))
    assert unchanged(done.network, tried.state_dict()) and done.stages[0].kept
    assert "the last run, on all labels, is not taken" in str(done) and ("nan" if end == "diverged" else "harm") in str(done)


@pytest.mark.parametrize("rule", [lf.SparseUpdate("head"), lf.SparseUpdate(1), lf.SparseUpdate(["stage2"], channels=0.5)], ids=repr)
def test_keeping_the_frozen_part_s_values_changes_nothing(net, rule, monkeypatch):
    x, y = drifted(net)
    stage = next(lf.Stage(rule, lr=0.05, epochs=2).candidates())
    kept = train(net, stage, x, y, 0)
    monkeypatch.setattr(type(rule), "repeats_frozen", False)
    for name, value in train(net, stage, x, y, 0).state_dict().items():
        torch.testing.assert_close(kept.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_every_class_is_held_back_in_its_share():
    y = torch.arange(90) % 3
    kept, held = split(y, 1 / 3, 1)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(90)) and len(held) == 30
    assert all(9 <= int((y[held] == c).sum()) <= 11 for c in range(3))
    assert not torch.equal(held, split(y, 1 / 3, 2)[1])


def test_samples_come_in_every_form(net):
    x, y = clusters(net, 12)
    for data in ((x, y), [(x[:5], y[:5]), (x[5:], y[5:])], torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 5)):
        got = read_samples(data)
        assert torch.equal(got.x, x) and torch.equal(got.y, y) and got.inputs is got.x
    assert read_samples(x, [(x, y)]).inputs.shape[0] == 24 and read_samples([x[:5], x[5:]]).y is None


@pytest.mark.parametrize(
    ("stages", "data", "more", "message"),
    [
        ([], None, {}, "an adaptation is a list of stages"),
        (3, None, {}, "an adaptation is a list of stages"),
        (["no_rule"], None, {}, "unknown method 'no_rule'"),
        ([{"settings": {}}], None, {}, "names no method"),
        ([{"method": "statistics", "rate": 1}], None, {}, "unknown rate"),
        ([{"method": "sparse_update", "lr": []}], None, {}, "give a positive number"),
        ([{"method": "sparse_update", "lr": "0.1"}], None, {}, "give a positive number"),
        ([{"method": "alignment", "choose": {"strength": 1.0}}], None, {}, "a list of settings, each a mapping"),
        ([{"method": "alignment", "choose": [{"strenght": 1.0}]}], None, {}, "those of the rule are source, strength"),
        ([{"method": "alignment", "choose": [{}]}], None, {}, r"choose: \{\}"),
        ([{"method": "alignment", "choose": [{"strength": -1.0}]}], None, {}, "strength=-1.0"),
        ([{"method": "sparse_update", "choose": [{"train": 1}, {"train": 2}]}], None, {"held_back": 0.0}, "leaves a choice open"),
        ([{"method": "sparse_update", "choose": [{"train": 1}, {"train": 2}]}], None, {"firmware": True}, r"give train=\.\.\."),
        ([{"method": "sparse_update", "freeze": "stem"}], None, {}, "paths of modules"),
        ([{"method": "sparse_update", "freeze": ["stem"]}], None, {}, "'stem' is no module"),
        ([{"method": "sparse_update", "head": "all"}], None, {}, "head='all'"),
        ([{"method": "sparse_update", "steps": 0}], None, {}, "steps=0"),
        ([{"method": "statistics", "steps": 9}], None, {}, "steps=9\n.*learns from no labels"),
        ([{"method": "sparse_update", "steps": 9}], None, {"firmware": True}, "not how many epochs steps are"),
        (["sparse_update"], (torch.zeros(4, 1, 8, 8), torch.zeros(4)), {}, "a class index for each"),
        (["sparse_update"], (torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)), {}, "too few to judge by"),
        (["sparse_update"], (torch.zeros(9, 1, 8, 8), torch.arange(9)), {}, "label 8, and SmallConv tells 4 classes apart"),
        (["sparse_update"], None, {"held_back": 1.0}, "held_back=1.0"),
        (["sparse_update"], None, {"held_back": "0.3"}, "held_back='0.3'"),
        (["sparse_update"], None, {"held_back": 0.9999}, "nothing is left to learn from"),
        (["sparse_update"], None, {"seed": -1}, "seed=-1"),
        (["sparse_update"], None, {"seed": 2**60}, "a whole number from 0"),
        (["sparse_update"], None, {"seed": None}, "seed=None"),
        ([{"method": "sparse_update", "lr": [0.1, 0.01]}], None, {"held_back": 0.0}, "leaves a choice open"),
        (["statistics"], [], {}, "no samples"),
        (["statistics"], 3, {}, "got int"),
        (["statistics"], [(torch.zeros(1, 8, 8)[0, 0], torch.tensor(1))] * 3, {}, "single samples"),
        (["statistics"], None, {"unlabelled": torch.zeros(3, 2, 8, 8)}, r"unlabelled samples have shape"),
    ],
)
def test_mistakes_are_told_before_anything_is_changed(net, stages, data, more, message):
    before = state(net)
    with pytest.raises(lf.LightningFwdError, match=message):
        lf.adapt(net, stages, drifted(net) if data is None else data, **more)
    assert unchanged(net, before)


def test_it_is_priced_as_one(net, tmp_path):
    source = lf.source_moments(net, [clusters(net)], tmp_path / "net")
    x = torch.zeros(1, 1, 8, 8)
    stages = [
        lf.Alignment(source, strength=1.0),
        lf.Stage(lf.SparseUpdate("head"), lr=[0.01, 0.1], head="blocks"),
        lf.Stage(lf.SparseUpdate(2), epochs=1),
    ]
    cost = lf.adaptation_cost(net, stages, x, labelled=90, device="stm32h735")
    alignment, head, blocks = cost.stages
    assert cost.peak_ram_bytes == max(s.peak_ram_bytes for s in cost.stages) and cost.macs == sum(s.macs for s in cost.stages)
    wide = lf.step_cost(lf.widen_head(copy.deepcopy(net), x.repeat(2, 1, 1, 1)), x, method=lf.SparseUpdate("head"), momentum=0.9)
    assert head.step.total_macs == wide.total_macs and head.peak_ram_bytes == wide.peak_ram_bytes
    inference = cost.inference_macs
    assert head.macs == (2 * 5 * 60 + 5 * 90) * wide.total_macs + 3 * 30 * inference  # two rates on what is kept, one on all; judged thrice
    assert head.rollback_bytes == 4 * 4 * (6 + 8 + 1) and alignment.rollback_bytes > blocks.rollback_bytes > head.rollback_bytes
    assert alignment.macs > 4 * 100 * inference  # four rounds of 100 samples
    assert cost.dearest_step.latency_s > 0


def test_a_step_is_priced_once_for_all_rates(net, monkeypatch):
    module, priced = sys.modules["lightning_fwd.adaptation.price"], []
    monkeypatch.setattr(module, "step_cost", lambda *a, known=module.step_cost, **more: priced.append(1) or known(*a, **more))
    stage, x = lf.Stage(lf.SparseUpdate("head"), lr=[0.01, 0.1, 1.0]), torch.zeros(1, 1, 8, 8)
    three = lf.adaptation_cost(net, [stage], x, labelled=90)
    one = lf.adaptation_cost(net, [lf.Stage(lf.SparseUpdate("head"), lr=0.01)], x, labelled=90)
    assert len(priced) == 2 and three.macs - one.macs == 2 * (5 * 60 * three.dearest_step.total_macs + 30 * three.inference_macs)


def test_few_labels_get_as_many_steps_as_many(net, monkeypatch):
    """Two thirds of 24 samples in batches of 16 are one step an epoch, all of them two; 96 samples have steps enough in their epochs."""
    module, taken = sys.modules["lightning_fwd.adaptation.train"], []
    monkeypatch.setattr(module, "_order", lambda *a, known=module._order: [taken.append(1) or batch for batch in known(*a)])
    stage = lf.Stage(lf.SparseUpdate("head"), lr=0.1, epochs=3, steps=20)
    for count, epochs in ((24, 14), (96, 4), (200, 3)):
        assert stage.for_labels(count).epochs == epochs
    lf.adapt(net, [stage], drifted(net, 24))
    assert len(taken) == 14 * 1 + 14 * 2
    x = torch.zeros(1, 1, 8, 8)
    few, said = (lf.adaptation_cost(net, [s], x, labelled=24) for s in (stage, lf.Stage(lf.SparseUpdate("head"), lr=0.01, epochs=14)))
    assert few.macs == said.macs


def test_a_seed_says_it_all_where_the_network_draws(net):
    """Dropout's masks begin at the adaptation's seed, for each candidate and the last run; the caller's generator goes on where it was."""
    noisy = nn.Sequential(copy.deepcopy(net), nn.Dropout(0.5))
    noisy[0].classifier = nn.Identity()
    noisy.append(nn.Linear(8, 4))
    stages = [lf.Stage("backprop", lr=[0.01, 0.1], epochs=3)]
    torch.manual_seed(1)
    first = lf.adapt(noisy, stages, drifted(net), seed=5).network.state_dict()
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)
    assert unchanged(lf.adapt(noisy, stages, drifted(net), seed=5).network, first)


def test_the_price_refuses_what_an_adaptation_refuses(net):
    x = torch.zeros(1, 1, 8, 8)
    for counts, said in (
        ({"labelled": -5}, "-5 labelled"),
        ({"labelled": 90, "held_back": 2}, "held_back=2"),
        ({"labelled": 2}, "too few to judge by"),
        ({"labelled": 0, "unlabelled": 9}, "learns from labels and got none"),
    ):
        with pytest.raises(lf.LightningFwdError, match=said):
            lf.adaptation_cost(net, ["sparse_update"], x, **counts)
    said = str(lf.adaptation_cost(net, ["statistics", lf.SparseUpdate("head")], x, labelled=90))
    assert said.count("\n") == 2 and "as one: peak" in said and "KiB flash" in said


def test_what_adaptations_share_is_priced_once(net, tmp_path, monkeypatch):
    """A cost made of what others left is the cost made anew, to the last number."""
    module = sys.modules["lightning_fwd.adaptation.price"]
    x, known, traced = torch.zeros(1, 1, 8, 8), {}, []
    monkeypatch.setattr(module, "step_cost", lambda *a, of=module.step_cost, **n: traced.append(1) or of(*a, **n))
    moments = lf.source_moments(net, [clusters(net)], tmp_path / "net")
    head, wide = lf.Stage("sparse_update", {"train": "head"}, lr=[0.1, 0.2]), lf.Stage("sparse_update", {"train": "head"}, head="blocks")
    rows = [["statistics"], ["statistics", head], ["statistics", wide], [lf.Alignment(moments), wide], ["statistics", head, head]]
    for labelled in (30, 90):
        for row in rows:
            shared = lf.adaptation_cost(net, row, x, labelled, device="stm32h735", known=known)
            seen = len(traced)
            fresh = lf.adaptation_cost(net, row, x, labelled, device="stm32h735")
            del traced[seen:]
            assert str(shared) == str(fresh) and shared.flash_bytes == fresh.flash_bytes
            assert [dataclasses.replace(s, step=None) for s in shared.stages] == [dataclasses.replace(s, step=None) for s in fresh.stages]
            assert [s.step.total_macs for s in shared.stages] == [s.step.total_macs for s in fresh.stages]
    once = len(traced)
    for row in rows:
        lf.adaptation_cost(net, row, x, 40, device="stm32h735", known=known)
    assert len(traced) == once


def test_the_last_run_costs_what_the_candidate_of_most_work_costs(net):
    """The dearest step in RAM may be that of least work."""
    x, few, many = torch.zeros(1, 1, 8, 8), {"train": "head"}, {"train": ["stage2"]}
    both = lf.Stage("sparse_update", choose=[few, many], lr=0.1, epochs=1)
    head, block = (lf.adaptation_cost(net, [lf.Stage("sparse_update", s, lr=0.1, epochs=1)], x, labelled=90) for s in (few, many))
    cost = lf.adaptation_cost(net, [both], x, labelled=90)
    of_head, of_block = (c.stages[0].step.total_macs for c in (head, block))
    assert of_block > of_head and cost.macs == block.macs + 60 * of_head + 30 * cost.inference_macs


def test_numbers_of_numpy_are_numbers(net):
    stages = [lf.Stage(lf.SparseUpdate("head"), lr=0.1, epochs=1)]
    expected = lf.adapt(net, stages, drifted(net), held_back=0.25, seed=3).network.state_dict()
    assert unchanged(lf.adapt(net, stages, drifted(net), held_back=np.float32(0.25), seed=np.int64(3)).network, expected)


def test_a_report_says_what_was_chosen_even_where_it_is_the_default():
    stage = lf.Stage("sparse_update", {"train": "norms"}, choose=[{"channels": 1.0}, {"channels": 0.5}], lr=[0.1, 0.2])
    assert [stage.choice(candidate) for candidate in stage.candidates()][::2] == ["lr 0.1, channels 1.0", "lr 0.1, channels 0.5"]
    assert Verdict(1.0, None).against(Verdict(1.0, None)) == "it changes nothing"
    assert "loss 1.315 -> 0.0123 on 9" in str(StageResult("a", True, "", 1.31499, 0.01234, 9))


def test_what_a_stage_freezes_the_next_one_may_train(net):
    x, y = drifted(net, 24)
    first, *_ = (name for name, child in net.named_children() if any(True for _ in child.parameters()))
    stage = lf.Stage("backprop", {"batch_norm": "freeze"}, freeze=[first], lr=1e-3, epochs=1)
    after = train(net, stage, x, y, seed=0)
    frozen = [p for name, p in after.named_parameters() if name.startswith(f"{first}.")]
    assert all(p.requires_grad for p in frozen)
    assert all(torch.equal(p, q) for p, q in zip(frozen, net.get_submodule(first).parameters(), strict=True))


def test_a_network_that_only_becomes_unsure_has_gained_nothing():
    """Each is judged at its own best scale, so what a common factor of the logits does to the loss is left out."""
    torch.manual_seed(0)
    y = torch.arange(40) % 4
    logits = F.one_hot(y, 4) + torch.randn(40, 4)
    sure, unsure = judge(nn.Identity(), 16 * logits, y), judge(nn.Identity(), logits / 4, y)
    assert F.cross_entropy(16 * logits, y) > F.cross_entropy(logits / 4, y)
    assert sure.loss == pytest.approx(unsure.loss) and unsure.against(Verdict(sure.loss, sure.right)) != ""
    assert sure.loss == pytest.approx(min(float(F.cross_entropy(16 * logits * s, y)) for s in SCALES))
    worse = logits.clone()
    worse[:12] = -worse[:12]
    assert F.cross_entropy(worse / 4, y) < F.cross_entropy(16 * logits, y)
    assert judge(nn.Identity(), worse / 4, y).against(sure) == "it does harm"


def test_a_lower_loss_that_costs_right_answers_is_harm():
    right = torch.tensor([True] * 6 + [False] * 4)
    before = Verdict(1.0, right)
    assert Verdict(0.5, torch.zeros(10, dtype=torch.bool)).against(before) == "it does harm: it loses 6 right answers and wins 0"
    one_less = right.clone()
    one_less[0] = False
    assert Verdict(0.5, one_less).against(before) == ""  # within its standard error
    assert before.against(Verdict(0.5, right)) == "it does harm"


def test_a_gain_that_may_be_chance_does_not_count():
    """What a few samples gain has to exceed its standard error; what all gain a little of does."""
    losses, right = torch.ones(16), torch.ones(16, dtype=torch.bool)
    before = Verdict(1.0, right, losses)
    evenly = losses - 0.01 - 0.001 * torch.arange(16)
    few = losses + 0.01
    few[0] = -0.5
    for after, chance in ((evenly, False), (few, True)):
        verdict = Verdict(float(after.mean()), right, after)
        assert verdict.against(before) == "" and verdict.chance(before).startswith("it may be chance") is chance
        assert verdict.chance(Verdict(1.0, right)) == ""  # a device keeps no losses


def test_chance_is_held_against_stages_without_labels_alone(net, monkeypatch):
    monkeypatch.setattr(Verdict, "chance", lambda self, before: "it may be chance: so it is said")
    done = lf.adapt(net, ["statistics", lf.Stage("sparse_update", {"train": "head"}, lr=0.1)], drifted(net))
    assert [stage.kept for stage in done.stages] == [False, True] and str(done).count("so it is said") == 1


def test_the_rate_that_does_no_harm_is_taken_before_one_of_lower_loss(monkeypatch):
    lost = Verdict(0.1, torch.zeros(32, dtype=torch.bool))
    kept = Verdict(0.2, torch.ones(32, dtype=torch.bool))
    verdicts = iter([Verdict(1.0, torch.ones(32, dtype=torch.bool)), lost, kept, Verdict(0.3, kept.right)])
    monkeypatch.setattr(sys.modules["lightning_fwd.adaptation.adapt"], "judge", lambda *_: next(verdicts))
    x, y = torch.randn(96, 1, 8, 8), torch.arange(96) % 3
    stage = lf.Stage("sparse_update", {"train": "head"}, lr=[0.1, 0.01, 0.001], epochs=1)
    (result,) = lf.adapt(SmallConv(1, (8, 8), 3).eval(), [stage], (x, y), refit=False).stages
    assert result.kept and result.after == 0.2 and result.chosen == "lr 0.01"
