"""Inserted modules say in which memory category they are priced."""

import pytest
import torch
from torch import nn

import lightning_fwd as lf
from lightning_fwd.cost.memory import plan_memory
from lightning_fwd.cost.widths import Widths
from lightning_fwd.graph.priced_as import PricedAs, category_of
from lightning_fwd.trace import trace_step

SAID = {
    "_lfwd": PricedAs(constants="constants"),
    "_lfwd.heads": PricedAs(state="heads", values="heads"),
    "_lfwd.heads.1": PricedAs(values="activations"),
}


@pytest.mark.parametrize(
    ("path", "memory", "category"),
    [
        ("_lfwd.heads.0.linear.weight", "state", "heads"),
        ("_lfwd.heads.0.linear.weight", "constants", "constants"),  # what a module leaves open, the one around it says
        ("_lfwd.heads.1.linear", "values", "activations"),  # the innermost one's word holds
        ("_lfwd.headset.weight", "state", ""),  # a name that begins alike is another module
        ("conv.weight", "constants", ""),
    ],
)
def test_the_innermost_module_that_says_something_is_heard(path, memory, category):
    assert category_of(path, SAID, memory) == category


def test_what_a_module_says_is_what_its_memory_is_priced_as():
    class Spare(nn.Linear):
        priced_as = PricedAs(state="feedback", values="loss")

    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    x, y = torch.randn(4, 6), torch.tensor([0, 1, 2, 0])
    model = lf.rewrite(net, "local_loss", x)
    model.inserted.heads["0"].linear.__class__ = Spare
    step = trace_step(model, (x, y))
    plan = plan_memory(step, Widths(step, "fp32"))
    of_the_head = {
        (b.category, b.born < 0) for b in plan.buffers if b.layer == "_lfwd.heads.0.linear" and b.category in ("heads", "feedback", "loss")
    }
    assert of_the_head == {("feedback", True), ("loss", False)}


def test_planes_of_the_label_are_weights_and_what_they_make_is_the_label_embedding():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    x, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    step = trace_step(lf.rewrite(net, lf.ForwardForward(label="planes"), x), (x, y))
    buffers = [b for b in plan_memory(step, Widths(step, "fp32")).buffers if b.layer == "_lfwd.label_embedding"]
    assert {b.category for b in buffers if b.born < 0} == {"weights"}
    assert "label embedding" in {b.category for b in buffers}
