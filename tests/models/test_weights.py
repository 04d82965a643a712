"""Trained weights from every kind of file, and the ways in which a file does not fit."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lightning_fwd import LightningFwdError
from lightning_fwd.models import MLP, SmallConv1d, load_weights
from lightning_fwd.models.sealed_weights import save_sealed


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


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "net"])
def test_weights_under_a_key_of_ones_own(key, tmp_path):
    source, net, file = MLP(8, (4,), 3), MLP(8, (4,), 3), tmp_path / "own.pt"
    optimizer = torch.optim.SGD(source.parameters(), 0.1, 0.9)
    torch.save({"epoch": 3, key: source.state_dict(), "optimizer_state_dict": optimizer.state_dict(), "best": {"loss": 0.1}}, file)
    load_weights(net, file)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), source.parameters(), strict=True))
    torch.save({"a": source.state_dict(), "b": source.state_dict()}, file)
    with pytest.raises(LightningFwdError, match="several sets of weights: a, b"):
        load_weights(net, file)
    torch.save({"epoch": 3, "args": {}}, file)
    with pytest.raises(LightningFwdError, match="holds no weights(.|\n)*it has epoch, args"):
        load_weights(net, file)


def test_a_missing_key_is_named(tmp_path):
    state, file = MLP(8, (4, 4, 4, 4), 3).state_dict(), tmp_path / "w.pt"
    del state["fc4.bias"]
    torch.save({f"model.{key}": value for key, value in state.items()}, file)
    with pytest.raises(LightningFwdError, match="w.pt does not belong to this model\n  why:  it lacks model.fc4.bias\n"):
        load_weights(MLP(8, (4, 4, 4, 4), 3), file)


@pytest.mark.parametrize("change", [torch.Tensor.int, torch.Tensor.to_sparse, lambda t: t.to(torch.complex64), lambda t: t.to("meta")])
def test_weights_of_another_kind_are_not_rounded_in_silence(change, tmp_path):
    net, file = MLP(8, (4,), 3), tmp_path / "w.pt"
    before = [p.clone() for p in net.parameters()]
    torch.save({key: change(value) for key, value in net.state_dict().items()}, file)
    with pytest.raises(LightningFwdError, match="fc1.weight is a strided|fc1.weight is a torch"):
        load_weights(net, file)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))


def test_a_checksum_guards_what_the_format_does_not(tmp_path):
    net, file = MLP(8, (4,), 3), tmp_path / "w.safetensors"
    save_sealed(net.state_dict(), file)
    load_weights(net, file)
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(LightningFwdError, match="w.safetensors'\n  why:  it is damaged: its tensors do not have the checksum"):
        load_weights(net, file)
