"""A network is the same, and has a way back, however it writes ReLU, pooling to one position and flattening."""

import pytest
import torch
from lightning_fwd_export import ExportError
from lightning_fwd_export.npu import backward
from lightning_fwd_export.npu.backward import insert_backward
from lightning_fwd_export.npu.taps import insert_taps
from torch import nn
from torch.nn import functional as F


class Written(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.stem, self.bn, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.top, self.top_bn, self.classifier, self.end = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3), end

    def forward(self, x):
        x = self.top_bn(self.top(torch.relu(self.bn(self.stem(x)))))
        return self.classifier(self.end(x))


WAYS = [
    lambda x: F.adaptive_avg_pool2d(F.relu(x), 1).flatten(1),
    lambda x: F.relu(x).mean((2, 3)),
    lambda x: x.relu().mean(dim=[-1, -2]),
    lambda x: F.relu(x, inplace=True).mean((2, 3)),
    lambda x: torch.flatten(torch.mean(torch.relu(x), (2, 3), keepdim=True), 1),
    lambda x: F.adaptive_avg_pool2d(F.relu(x), (1, 1)).view(x.shape[0], -1),
    lambda x: F.adaptive_avg_pool2d(F.relu(x), (1, 1)).reshape(x.size(0), 4),
]


@pytest.mark.parametrize("end", WAYS)
def test_it_computes_the_same_and_its_gradients_are_autograds(end, monkeypatch):
    monkeypatch.setattr(backward, "MASK_GAIN", 1e12)
    torch.manual_seed(0)
    net, x, seen = Written(end).double().eval(), torch.randn(2, 3, 8, 7, dtype=torch.double), []
    nn.init.normal_(net.bn.bias)
    back = insert_backward(net, x[:1])
    back.module.double()
    net.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    logits, error = net(x), torch.randn(2, 4, dtype=torch.double)
    wanted = torch.autograd.grad((seen[0] * error).sum(), [net.bn.bias, net.top_bn.bias])
    with torch.no_grad():
        found = back.module(x, error[:, :, None, None])
    assert torch.allclose(found[0], logits) and back.tapped.layers == ("stem", "top")
    for got, want in zip(found[4:6], wanted, strict=True):
        assert torch.allclose(got.sum(0) / back.window, want, rtol=1e-5)


def test_what_has_no_way_back_names_the_line():
    for end, why in ((lambda x: x.mean((2, 3)), "right behind a ReLU"), (lambda x: F.relu6(x).mean((2, 3)), "right behind a ReLU")):
        with pytest.raises(ExportError, match=rf"mean of Written, .*test_respell.py:\d+ .*\n?.*{why}"):
            insert_backward(Written(end), torch.randn(1, 3, 8, 7))
    with pytest.raises(ExportError, match=r"add of Written, .*test_respell.py:\d+ .*\n?.*spreads a map of \(\)"):
        insert_backward(Written(lambda x: F.relu(x).mean((2, 3)) + x.mean(dim=None)), torch.randn(1, 3, 8, 7))
    with pytest.raises(ExportError, match=r"hardtanh of Written, .*test_respell.py:\d+ .*\n?.*known are convolutions"):
        insert_backward(Written(lambda x: F.relu(F.hardtanh(x)).mean((2, 3))), torch.randn(1, 3, 8, 7))


def test_what_is_missing_is_named_with_what_to_do():
    signal = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(ExportError, match=r"it has Conv1d.*\n?.*\(C, T, 1\)"):
        insert_taps(signal, torch.randn(1, 3, 16))
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(ExportError, match=r"no nn.BatchNorm2d alone reads one.*\n?.*keep batch norms"):
        insert_taps(plain, torch.randn(1, 3, 8, 8))
    with pytest.raises(ExportError, match=r"ends? in a linear layer but in 5.*\n?.*\n?.*without softmax"):
        insert_taps(nn.Sequential(*plain, nn.Softmax(1)), torch.randn(1, 3, 8, 8))
