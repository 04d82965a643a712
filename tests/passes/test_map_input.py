"""A linear map of the features in front of a network: nothing at first, then what alignment or training makes of it."""

import pytest
import torch
from torch import nn

import lightning_fwd as lf


class Spectra(nn.Module):
    """Frames of four features, no norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 5, 3, padding=1), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


MIXING = torch.tensor([[1.5, 0.3, 0.0, 0.0], [0.3, 0.8, 0.2, 0.0], [0.0, 0.2, 1.2, 0.4], [0.0, 0.0, 0.4, 0.9]])  # symmetric, positive


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Spectra().eval()


def home(count=64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, 9, 4, generator=generator) * torch.tensor([1.0, 2.0, 0.5, 1.5]) + 1.0


def test_it_changes_nothing_by_itself_and_is_put_in_once(net):
    x = home()
    mapped = lf.map_input(net, x)
    assert torch.equal(mapped(x), net(x)) and not hasattr(net, "input_map")
    assert lf.map_input(mapped, x) is mapped
    assert {name for name, _ in mapped.named_parameters()} - {name for name, _ in net.named_parameters()} == {
        "input_map.weight",
        "input_map.bias",
    }


def test_alignment_undoes_what_mixes_and_shifts_the_features(net, tmp_path):
    """Exactly so for a symmetric positive mixing, which is the transport map of any Gaussian; with strength 0.5 half of it."""
    x = home()
    away, labels = x @ MIXING + torch.tensor([3.0, 0.0, -2.0, 1.0]), torch.arange(64) % 3
    stage = lf.Stage("alignment", {"layers": "input", "strength": 1.0, "samples": 64}, input="mapped")
    ready = stage.prepared(net, iter([(x[:32], labels[:32]), (x[32:], labels[32:])]), tmp_path / "net")
    done = lf.adapt(net, [ready], (away, labels), held_back=0).network
    torch.testing.assert_close(done(away), net(x), rtol=1e-2, atol=1e-2)
    assert not torch.allclose(net(away), net(x), atol=0.1)
    torch.testing.assert_close(done.input_map.weight, torch.linalg.inv(MIXING), rtol=2e-2, atol=2e-2)
    assert torch.equal(done.conv.weight, net.conv.weight)


def test_its_strength_is_chosen_by_what_it_is_good_for(net, tmp_path):
    x = home()
    with torch.no_grad():
        net.head.weight *= 30.0  # sure of what it says,
        net.head.bias -= net(x).mean(0)  # and each class is found
    labels = net(x).argmax(1)
    stage = lf.Stage("alignment", {"layers": "input", "samples": 64}, input="mapped")
    ready = stage.prepared(net, [(x, labels)], tmp_path / "net")
    result = lf.adapt(net, [ready], (x @ MIXING + 3.0, labels)).stages[0]
    assert result.kept and "strength 1.0" in result.chosen


def test_without_a_map_or_its_moments_it_is_refused(net, tmp_path):
    x = home()
    file = lf.source_moments(net, [x], tmp_path / "net.moments")
    with pytest.raises(lf.RewriteError, match="no map in front of Spectra"):
        lf.rewrite(net, lf.Alignment(file, layers="input"), x[:2])
    with pytest.raises(lf.RewriteError, match="holds no input_map/features/mean"):
        lf.rewrite(lf.map_input(net, x), lf.Alignment(file, layers="input"), x[:2])
    with pytest.raises(lf.RewriteError, match="without the source's moments"):
        lf.rewrite(lf.map_input(net, x), lf.Alignment(layers="input"), x[:2])
    with pytest.raises(lf.RewriteError, match="floating point"):
        lf.map_input(nn.Embedding(4, 4), torch.zeros(2, 3, dtype=torch.int64))


def test_any_rule_trains_it(net):
    x = home()
    mapped = lf.map_input(net, x)
    model = lf.rewrite(mapped, lf.SparseUpdate({"input_map": 1.0}), x[:2])
    with model.step(torch.zeros(64, dtype=torch.int64)):
        loss = nn.functional.cross_entropy(model(x), torch.zeros(64, dtype=torch.int64))
    model.backward(loss)
    assert mapped.input_map.weight.grad.any() and mapped.conv.weight.grad is None


def test_an_adaptation_with_it_is_priced_and_no_part_of_one_library(net, tmp_path):
    x = home()
    stage = lf.Stage("alignment", {"layers": "input", "strength": 1.0, "samples": 64}, input="mapped")
    ready = stage.prepared(net, [(x, torch.zeros(64))], tmp_path / "net")
    cost = lf.adaptation_cost(net, [ready, lf.Stage("sparse_update")], x[:1], labelled=12)
    assert cost.inference_macs == lf.adaptation_cost(net, ["sparse_update"], x[:1], labelled=12).inference_macs + 9 * 4 * 4
    with pytest.raises(lf.RewriteError, match="give them to the network before"):
        lf.adapt(net, [ready], (x, torch.arange(64) % 3), firmware=True)
