"""Layers under any name beside what the rewritten model calls its own."""

import pytest
import torch
from torch import nn

import lightning_fwd as lf
from lightning_fwd.graph.rewritten import RewrittenModel


class Named(nn.Module):
    """A layer under a name of one's choice; timm's backbones have `blocks`."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        self.add_module(name, nn.Sequential(nn.Linear(4, 6), nn.ReLU()))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(getattr(self, self.name)(x))


PUBLIC = sorted({n for n in vars(RewrittenModel) if not n.startswith("_")} - set(dir(nn.Module)) | set(RewrittenModel.__annotations__))


@pytest.mark.parametrize(
    ("name", "rule"),
    [(name, "local_loss") for name in ("blocks", "layers", "input", "relu", "x", "counter", "heads")]
    + [(name, "pepita") for name in ("units", "input_scale", "feedback")]
    + [(name, lf.ZerothOrder(2)) for name in ("places", "before_trained", "after_entry")],
    ids=str,
)
def test_layers_may_have_the_names_of_our_variables(name, rule):
    torch.manual_seed(0)
    net, x, y = Named(name), torch.randn(5, 4), torch.arange(5) % 3
    expected = net(x)
    model = lf.rewrite(net, rule, x)
    with model.step(y):
        loss = nn.functional.cross_entropy(model(x), y)
    model.backward(loss)
    assert torch.equal(lf.unwrap(model)(x), expected)
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", PUBLIC)
def test_a_layer_named_like_a_part_of_the_rewritten_model_is_refused_before_anything_changes(name):
    net = Named(name)
    with pytest.raises(lf.RewriteError, match=f"Named.{name} cannot be told from"):
        lf.rewrite(net, "local_loss", torch.randn(5, 4))
    assert type(net) is Named and getattr(net, name)[0].weight.requires_grad
    assert lf.rewrite(nn.Sequential(net), "local_loss", torch.randn(5, 4)).num_classes == 3  # the mend that the error names
