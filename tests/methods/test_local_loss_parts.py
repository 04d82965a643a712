"""Local losses that train a part of the network, with heads fitted to the source."""

import copy

import pytest
import torch
from method_table import CLASSES, clusters, one_step

import lightning_fwd as lf
from lightning_fwd.models import SmallConv

ROOMS = [{}, {"error": "output"}, {"error": "output", "lookahead": 1}]


def stepped(**settings):
    torch.manual_seed(5)
    net = SmallConv(1, (6, 8), CLASSES).eval()
    x, y = clusters(net, 8)
    model = lf.rewrite(net, lf.LocalLoss(batch_norm="freeze", **settings), x[:2])
    one_step(model, x, y)
    return net, model


@pytest.mark.parametrize("settings", ROOMS)
def test_what_learns_gets_the_gradient_that_it_gets_when_all_learn(settings):
    whole, part = stepped(**settings)[0], stepped(train={"stage2.conv": [0, 3]}, biases="all", **settings)[0]
    seen = 0
    for (name, wanted), got in zip(whole.named_parameters(), part.parameters(), strict=True):
        if name == "stage2.conv.weight":
            torch.testing.assert_close(got.grad[:, [0, 3]], wanted.grad[:, [0, 3]])
            assert not got.grad[:, [1, 2, 4, 5]].any() and wanted.grad[:, [1, 2, 4, 5]].any()
            seen += 1
        elif name.endswith("bias"):
            torch.testing.assert_close(got.grad, wanted.grad)
            seen += 1
        else:
            assert got.grad is None, name
    assert seen > 2


def test_a_block_that_does_not_learn_runs_without_a_graph_and_its_head_stays():
    _, model = stepped(train=["stage2", "classifier"])
    heads = dict(model.inserted.heads.named_parameters())
    assert {name[0] for name, p in heads.items() if p.grad is not None} == {"1"}


def test_unwrap_gives_the_network_back_trainable():
    net, model = stepped(train="biases")
    assert lf.unwrap(model) is net and all(p.requires_grad for p in net.parameters())


def test_a_stage_fits_the_heads_to_the_source(tmp_path):
    torch.manual_seed(0)
    net = SmallConv(1, (6, 8), CLASSES).eval()
    x, y = clusters(net, 96)
    source = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 96, 16)]
    stage = lf.Stage("local_loss", {"heads": "source", "error": "output", "batch_norm": "fold"}, lr=0.001, epochs=3)
    with pytest.raises(lf.RewriteError, match="has not seen the source"):
        lf.adapt(net, [stage], (x, y))
    ready = stage.prepared(net, source, tmp_path / "net")
    by_hand = lf.rewrite(copy.deepcopy(net), lf.LocalLoss(error="output", batch_norm="fold"), x[:2])
    lf.methods.calibrate.calibrate(by_hand, source)
    model = lf.rewrite(copy.deepcopy(net), ready.method, x[:2])
    for name, value in by_hand.inserted.heads.state_dict().items():
        assert torch.equal(model.inserted.heads.state_dict()[name], value)
    adapted = lf.adapt(net, [ready], (x, y), held_back=0).network
    assert not torch.equal(adapted.stage1.conv.weight, net.stage1.conv.weight) and adapted(x).isfinite().all()


def test_heads_of_another_network_are_refused(tmp_path):
    net = SmallConv(1, (6, 8), CLASSES).eval()
    x, y = clusters(net, 32)
    rule = lf.LocalLoss(heads="source", batch_norm="fold").prepared(net, [(x, y)], tmp_path / "net")
    with pytest.raises(lf.RewriteError, match="1.linear.weight has shape"):
        lf.rewrite(SmallConv(1, (6, 9), CLASSES).eval(), rule, x[:2])
    (tmp_path / "broken.safetensors").write_bytes(b"no heads")
    with pytest.raises(lf.RewriteError, match="broken.safetensors"):
        lf.rewrite(net, lf.LocalLoss(heads=str(tmp_path / "broken.safetensors")), x[:2])
    with pytest.raises(lf.RewriteError, match="only projections"):
        lf.rewrite(net, lf.LocalLoss(heads="source", head="groups"), x[:2])
    with pytest.raises(lf.RewriteError, match="channels=0"):
        lf.LocalLoss(channels=0)
