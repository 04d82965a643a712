"""What a device learned goes back into the plain model: it then predicts as the device does; what does not fit is refused."""

import copy
import dataclasses

import pytest
import torch
from lightning_fwd_export.check import example_batches
from lightning_fwd_export.errors import ExportError
from lightning_fwd_export.generate_c import translate
from lightning_fwd_export.host.runtime import HostProgram
from lightning_fwd_export.integer import HostLibrary, integer_calls
from method_table import CASE_IDS, CASES, NETS, clusters
from tiny_exports import TinyConv, TinyMlp, export_module, tiny

import lightning_fwd as lf
from lightning_fwd.device_weights import TABLE, read_table, write_table
from lightning_fwd.errors import LightningFwdError
from lightning_fwd.integer import IntegerRule

QUICK = [("conv", lf.Backprop(batch_norm="fold"), 2), ("conv", lf.Pepita(recompute=True), 50), ("mlp", lf.ForwardForward(), 50)]


def plain(network):
    torch.manual_seed(0)
    return {"mlp": TinyMlp, "conv": TinyConv}[network]().eval()


def trained(program, batch, steps, classes=4):
    host = HostProgram(program.data)
    takes_target = host.methods["train_step"].metadata.num_inputs() == 2
    for x, y in example_batches(batch, classes, steps, seed=5):
        host.run("train_step", *((x, y) if takes_target else (x,)))
    return host


@pytest.mark.parametrize(("network", "method", "steps"), QUICK, ids=str)
def test_the_plain_model_predicts_as_the_device_does(exported, network, method, steps):
    program, report, out = exported(network, method, steps=steps)
    batch = tiny(network, method)[1]
    host = trained(program, batch, 10)
    net, learned = plain(network), host.run("get_weights")
    before = net(batch[0])
    lf.load_device_weights(net, b"".join(value.numpy().tobytes() for value in learned), out)
    expected = host.run("forward", batch[0])[0]
    torch.testing.assert_close(net(batch[0]), expected, rtol=1e-5, atol=1e-5)
    assert (before - expected).abs().max() > 1e-3
    assert ("_lfwd.folded.conv1.weight" in report.weights) is (getattr(method, "batch_norm", "") == "fold")
    with pytest.raises(RuntimeError):
        plain(network).load_state_dict(dict(zip(report.weights, learned, strict=True)) | {"bn1.num_batches_tracked": torch.tensor(0)})


@pytest.mark.slow
@pytest.mark.parametrize(("row", "name"), CASES, ids=CASE_IDS)
def test_every_rule_comes_back(tmp_path, row, name):
    torch.manual_seed(0)
    net = NETS[name]().eval()
    with torch.no_grad():
        for norm in (m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            for value, bounds in (
                (norm.running_mean, (-1, 1)),
                (norm.running_var, (0.5, 2)),
                (norm.weight, (-2, -0.5)),
                (norm.bias, (-1, 1)),
            ):
                value.uniform_(*bounds)
    x, y = clusters(net, 3)
    original, again = copy.deepcopy(net), copy.deepcopy(net)
    model = lf.rewrite(net, row.method(), x)
    if model.method.beyond_the_step(model):
        with pytest.raises(ExportError):
            export_module.export(model, (x, y), tmp_path, steps=2)
        return
    program, _ = export_module.export_program(model, (x, y), tmp_path, lr=min(row.lr, 0.02), steps=2)
    host = trained(program, (x, y), 6)
    expected = host.run("forward", x)[0]
    if row.predicts_by_goodness:
        with pytest.raises(LightningFwdError, match="predicts by other means"):
            lf.load_device_weights(original, host.run("get_weights"), tmp_path)
    else:
        lf.load_device_weights(original, host.run("get_weights"), tmp_path)
        torch.testing.assert_close(original(x), expected, rtol=1e-5, atol=1e-5)
    rewritten = lf.rewrite(again, row.method(), x)
    lf.load_device_weights(rewritten, host.run("get_weights"), tmp_path)
    rewritten.eval()
    with torch.no_grad():
        torch.testing.assert_close(rewritten(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_integers_come_back_to_the_bit(tmp_path, momentum):
    """Folded batch norm included; the plain model computes in floats what they stand for."""
    x, y = clusters(net := NETS["conv"](), 4)
    net.eval()
    original, again = copy.deepcopy(net), copy.deepcopy(net)
    model = lf.rewrite(net, IntegerRule(lf.Backprop(batch_norm="freeze"), lf.Integer()), x)
    program, report = export_module.export_program(model, (x, y), tmp_path, lr=0.05, momentum=momentum, steps=4)
    assert all(name.startswith("_lfwd") for name in report.weights)
    checked, written = translate(program.data)
    library = HostLibrary(written.files, checked)
    for inputs in integer_calls(model, [(x, y)] * 40):
        library.run("train_step", *inputs)
    q = next(integer_calls(model, [(x, y)]))[0]
    logits, exponent = library.run("forward", q)
    device = torch.from_numpy(logits).float() * 2.0 ** -float(exponent.item())
    lf.load_device_weights(original, library.weights(), tmp_path)
    assert (original(x) - device).abs().max() < 0.1 * device.abs().max()
    rewritten = lf.rewrite(again, IntegerRule(lf.Backprop(batch_norm="freeze"), lf.Integer()), x)
    lf.load_device_weights(rewritten, library.weights(), tmp_path)
    held = rewritten.method.integers(rewritten, rewritten.method.step(rewritten, x, y))
    assert b"".join(held[name].numpy().tobytes() for name in program.learned) == library.weights()


def test_what_does_not_fit_is_refused_and_changes_nothing(exported, tmp_path):
    method = lf.Backprop(batch_norm="fold")
    program, _, out = exported("conv", method, steps=2)
    learned = HostProgram(program.data).run("get_weights")
    table = read_table(out)

    def refused(match, net=None, given=learned, beside=out):
        net = net or plain("conv")
        before = {key: value.clone() for key, value in net.state_dict().items()}
        with pytest.raises(LightningFwdError, match=match):
            lf.load_device_weights(net, given, beside)
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())

    other = plain("conv")
    other.bn1.running_var += 1
    refused("weights that do not learn are not those of the export", other)
    refused("another network|has no", plain("mlp"))
    refused("the device runs", lf.rewrite(plain("conv"), lf.LocalLoss(batch_norm="fold"), torch.zeros(3, 2, 8, 8)))
    refused("is rewritten", torch.nn.ModuleDict({"net": lf.rewrite(plain("conv"), method, torch.zeros(3, 2, 8, 8))}))
    refused("other shapes or types", given=learned[::-1])
    refused("not finite", given=[learned[0] * float("nan"), *learned[1:]])
    refused("other shapes or types", given=[1.0])
    refused("is a dict", given={"weights": learned})
    refused("bytes", given=b"1234")
    refused("no such file", given=tmp_path / "none.bin")
    refused("no such file", beside=tmp_path)
    refused("no weights table is given", beside=None)
    write_table(dataclasses.replace(table, tensors=table.tensors[:-1]), tmp_path)
    refused("exported without classifier.bias", beside=tmp_path)
    damaged = bytearray((tmp_path / TABLE).read_bytes())
    damaged[-9] ^= 4
    (tmp_path / TABLE).write_bytes(damaged)
    refused("damaged", beside=tmp_path / TABLE)
