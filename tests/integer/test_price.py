"""The ledger of a step in integers: MAC of the float step, bytes as in the lowered graph, draws and shifts counted."""

import pytest
import torch
from torch import nn

import lightning_fwd as lf
from lightning_fwd.cost import step_cost
from lightning_fwd.errors import LightningFwdError
from lightning_fwd.integer import integer_cost
from lightning_fwd.integer.counts import ELEMENTWISE, MACS, draws
from lightning_fwd.integer.operators import FUNCTIONAL, UPDATES
from lightning_fwd.trace.optimizers import state_name

X = torch.zeros(2, 1, 8, 8)


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )


@pytest.mark.parametrize(
    "method", [lf.SparseUpdate("head"), lf.Backprop(), lf.LocalLoss(batch_norm="freeze", pool=1)], ids=lambda m: type(m).__name__
)
def test_multiplications_are_those_of_the_float_step(method):
    wanted, got = step_cost(net(), X, method=method), integer_cost(net(), X, method=method)
    phases = [{k: v for k, v in found.items() if v} for found in (got.macs_by_arithmetic["int8"], wanted.macs_by_arithmetic["fp32"])]
    assert phases[0] == phases[1] and got.total_macs == wanted.total_macs
    assert (got.parameters_trained, got.parameters_frozen) == (wanted.parameters_trained, wanted.parameters_frozen)


def test_masters_take_two_bytes_and_no_copy():
    cost = integer_cost(net(), X, method=lf.SparseUpdate("head"), momentum=0.9)
    resident = {b.name: b.bytes for b in cost.plan.buffers if b.born < 0}
    assert resident["5.weight"] == 2 * 48 and resident["5.bias"] == 4 * 3
    assert resident[state_name("momentum", "5.weight")] == 2 * 48 and resident[state_name("momentum", "5.bias")] == 4 * 3
    assert cost.plan.flash["frozen weights"] >= 36 + 36 + 4 * 8  # int8 weights, int32 biases


def test_every_operator_is_counted():
    known = set(ELEMENTWISE) | set(MACS)
    assert {name for name in (*FUNCTIONAL, *UPDATES) if name.startswith("int_")} - known == set()
    assert not any("one operation per output" in note for note in integer_cost(net(), X, method="local_loss").not_counted)


def test_draws_of_an_update():
    """12 weights: half a hash for each of 4 columns, one for each of 3 rows, three operations each; biases likewise."""
    lines = [line for line in integer_cost(nn.Linear(4, 3), torch.zeros(1, 4), method="backprop").lines if line.phase == "update"]
    update = 3 * 12 + draws(3, 4) + 3 + 3 * 3 + draws(3, 1)
    other = 2 * 3 + 1 + 2 * 12 // 16 + 3 + 1  # the rate, its exponent, the look for saturated masters, exponents of rows, the counter
    assert draws(3, 4) == 8 * 5 and sum(line.elementwise for line in lines) == update + other


def test_a_float_step_has_no_such_width():
    with pytest.raises(LightningFwdError, match="integer_cost"):
        step_cost(net(), X, width="integer")
