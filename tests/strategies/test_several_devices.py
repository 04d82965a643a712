"""Rules on several processes (gloo, on the CPU): the steps of one process, told apart from ranks that differ."""

import re
import runpy
import sys

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import StrategyRegistry
from method_table import NETS, QUIET, Task, clusters, tensors, trainer
from pages import ROOT
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import lightning_fwd as lf
from lightning_fwd.graph.across_ranks import Ranks, share, together, whole_shape
from lightning_fwd.graph.counter_random import uniform, uniform_of_samples, wrong_labels


class Dealt(Task):
    """Batches of eight, spread over the ranks in order; the last rank's weights may be bent once."""

    def __init__(self, bent=False):
        torch.manual_seed(1)
        super().__init__(NETS["residual"]())
        self.bent, (x, y) = bent, clusters(self.network, 48)
        for norm in (self.network.bn1, self.network.bn2):
            norm.running_mean.normal_(0, 0.3)
        self.data = TensorDataset(x.double(), y)

    def train_dataloader(self):
        size, rank = self.trainer.world_size, self.trainer.global_rank
        return DataLoader(self.data, 8 // size, sampler=DistributedSampler(self.data, size, rank, shuffle=False))

    def on_train_batch_end(self, *_):
        if self.bent and self.trainer.global_rank == 1 and self.trainer.global_step == 2:
            with torch.no_grad():
                self.network.head.bias[0] += 1e-6


def fit(module, strategy, devices):
    torch.manual_seed(7)
    settings = {**QUIET, "enable_checkpointing": False, "use_distributed_sampler": False, "precision": "64-true", "max_epochs": 1}
    L.Trainer(
        strategy=strategy, devices=devices, accumulate_grad_batches=2, gradient_clip_val=0.1, **{**settings, "accelerator": "cpu"}
    ).fit(module)
    return {name: value.double() for name, value in tensors(lf.unwrap(module).network).items()}


def raises(*words):
    return pytest.raises(lf.LightningFwdError, match="(?s)" + ".*".join(map(re.escape, words)))


def in_two(method, **settings):
    return lf.ForwardOnlyDDPStrategy(method, start_method="fork", **settings)


@pytest.fixture(autouse=True)
def _no_seed_of_another_test(monkeypatch):
    """Lightning seeds the processes that it starts by this variable, which ``seed_everything`` leaves behind."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.mark.parametrize("rule", ["local_loss", "statistics"])
def test_two_processes_take_the_steps_of_one(rule):
    """Batch norm, dropout, accumulation and clipping included."""
    start = {name: value.double() for name, value in tensors(Dealt().network).items()}
    one, two = fit(Dealt(), rule, 1), fit(Dealt(), in_two(rule), 2)
    assert one.keys() == two.keys() and any(not torch.equal(one[k], start[k]) for k in one)
    assert max((one[k] - two[k]).abs().max().item() for k in one) < 1e-6  # handed back in float32


class Attending(torch.nn.Module):
    """Attention that drops weights in training, of torch's module and of its function, two ways to mask."""

    input_shape, num_classes = (1, 8, 8), 4

    def __init__(self):
        super().__init__()
        self.heads, self.head = torch.nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True), torch.nn.Linear(8, 4)
        self.function = Function()

    def forward(self, x):
        x = x.flatten(1, 2)
        x = x + self.heads(x, x, x, need_weights=False)[0] + self.heads(x, x, x)[0]
        return self.head(self.function(x).mean(1))


class Function(torch.nn.Module):
    def forward(self, x):
        p, some = 0.4 * self.training, torch.ones(8, 8, dtype=torch.bool).tril(2)
        attend = torch.nn.functional.scaled_dot_product_attention
        return x + attend(x, x, x, some, dropout_p=p) + attend(x, x, x, dropout_p=p, is_causal=True, scale=0.5)


class Attends(Dealt):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.network = Attending()


@pytest.mark.parametrize("rule", ["backprop", pytest.param("local_loss", marks=pytest.mark.slow)])
def test_dropout_inside_attention_drops_what_one_process_would(rule):
    one, two = fit(Attends(), rule, 1), fit(Attends(), in_two(rule), 2)
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-6  # handed back in float32
    assert max((value - tensors(Attends().network)[name]).abs().max().item() for name, value in one.items()) > 1e-3


def test_a_rank_that_differs_is_caught():
    with pytest.raises(Exception, match="network.head.bias of rank 1 differ from rank 0's"):
        fit(Dealt(bent=True), in_two("local_loss", check_every=2), 2)


@pytest.mark.slow  # minutes: 25 settings of the rules, 2 and 4 processes
def test_every_rule_takes_the_steps_of_one_process(tmp_path, monkeypatch):
    script = ROOT / "tools" / "conformance" / "ddp.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--processes", "2", "4", "--out", str(tmp_path / "ddp.csv")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0, (tmp_path / "ddp.csv").read_text()


@pytest.mark.parametrize("name", lf.METHODS)
def test_names_lead_to_the_strategy_for_several(name):
    assert {f"{name}_ddp", f"{name}_ddp_spawn"} <= set(StrategyRegistry.available_strategies())
    assert type(trainer(f"{name}_ddp", devices=2).strategy) is lf.ForwardOnlyDDPStrategy
    strategy = trainer(name, devices=2).strategy
    assert type(strategy) is lf.ForwardOnlyDDPStrategy and strategy.method == lf.METHODS[name]()
    assert strategy.num_processes == 2 and strategy.cluster_environment is not None
    assert type(trainer(name).strategy) is lf.ForwardOnlyStrategy


def test_more_nodes_lead_there_too_and_settings_are_kept(monkeypatch):
    rule = lf.Pepita(recompute=True)
    strategy = trainer(lf.ForwardOnlyStrategy(rule, input_key="x"), num_nodes=2).strategy
    assert type(strategy) is lf.ForwardOnlyDDPStrategy and strategy.num_nodes == 2 and strategy.world_size == 2
    assert strategy.method is rule and strategy.input_of({"y": 0, "x": torch.ones(1)}) == 1


def test_what_cannot_be_distributed():
    class Own(lf.ForwardOnlyStrategy):
        pass

    with raises("Own with several devices", "ForwardOnlyDDPStrategy"):
        trainer(Own("pepita"), devices=2)
    with raises("integer training on several devices", "devices=1"):
        trainer(lf.ForwardOnlyStrategy("sparse_update", integer=lf.Integer()), devices=2)
    with raises("find_unused_parameters=...", "leave them out"):
        lf.ForwardOnlyDDPStrategy("pepita", find_unused_parameters=True)
    with raises("check_every=0", "at least 1"):
        lf.ForwardOnlyDDPStrategy("pepita", check_every=0)


@pytest.mark.parametrize("kind", ["fsdp", "deepspeed"])
def test_divided_parameters_are_refused_with_the_reason(kind):
    with raises("divide each parameter", "pepita_ddp"):
        trainer(f"pepita_{kind}", devices=2)


def test_ranks_share_what_one_process_draws():
    """The draws of three ranks are those of one process, dealt in turn."""
    seed, drawn, wrong = torch.tensor(5), [], []
    for rank in range(3):
        with together(Ranks(rank, 3)):
            assert whole_shape((4, 2)) == (12, 2)
            drawn.append(uniform_of_samples(seed, (4, 2)))
            wrong.append(wrong_labels(share(torch.arange(12)) % 5, 5, seed))
    assert torch.equal(torch.stack(drawn, 1).flatten(0, 1), uniform(seed, (12, 2)))
    assert torch.equal(torch.stack(wrong, 1).flatten(), wrong_labels(torch.arange(12) % 5, 5, seed))
