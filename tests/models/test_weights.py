"""Trained weights from every kind of file, and the ways in which a file does not fit."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lightning_fwd import LightningFwdError
from lightning_fwd.models import MLP, SmallConv1d, load_weights


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "prefixed.pt", "lightning.ckpt", "keras.npz"])
def test_every_kind_of_weights(tmp_path, name):
    source, net = MLP(8, (4,), 3), MLP(8, (4,), 3)
    state, file = source.state_dict(), tmp_path / name
    if name == "w.safetensors":
        save_file(state, file)
    elif name == "keras.npz":
        layers = {"dense": source.fc1, "dense_1": source.classifier}
        np.savez(
            file,
            **{f"{k}/kernel": v.weight.detach().T for k, v in layers.items()},
            **{f"{k}/bias": v.bias.detach() for k, v in layers.items()},
        )
    else:
        state = state if name == "w.pt" else {"model." + k: v for k, v in state.items()}
        torch.save({"state_dict": state, "epoch": 3} if name == "lightning.ckpt" else state, file)
    load_weights(net, file)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), source.parameters(), strict=True))


class Malicious:
    def __reduce__(self):
        return (print, ("run by a checkpoint",))


def test_files_that_are_no_weights(tmp_path, capfd):
    torch.save(Malicious(), tmp_path / "evil.pt")
    torch.save(3, tmp_path / "number.pt")
    for name in ("text.ckpt", "text.safetensors", "text.npz"):
        (tmp_path / name).write_text("hello")
    for name in ("evil.pt", "text.ckpt", "text.safetensors", "text.npz", "missing.pt", "missing.npz", "number.pt"):
        with pytest.raises(LightningFwdError, match=name):
            load_weights(MLP(8, (4,), 3), tmp_path / name)
    assert "run by" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a": torch.zeros(1)}, "w.pt does not belong(.|\n)*fc1.weight"),
        (MLP(8, (5,), 3).state_dict(), r"fc1.weight has shape \(5, 8\) in .*w.pt, \(4, 8\) in the model"),
        (MLP(8, (4,), 3).state_dict() | {"classifier.bias": torch.full((3,), torch.nan)}, "classifier.bias is not finite"),
    ],
)
def test_weights_that_do_not_fit_leave_the_network_as_it_was(tmp_path, state, said):
    net = MLP(8, (4,), 3)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(LightningFwdError, match=said):
        load_weights(net, tmp_path / "w.pt")
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_weights_of_keras_never_leave_a_layer_as_drawn(tmp_path):
    net = SmallConv1d()
    np.savez(tmp_path / "w.npz", **{"dense/kernel": net.classifier.weight.detach().T, "dense/bias": net.classifier.bias.detach()})
    with pytest.raises(LightningFwdError, match=r"is a Conv1d: weights of Keras are read for Conv2d, Linear and batch norm alone"):
        load_weights(net, tmp_path / "w.npz")
