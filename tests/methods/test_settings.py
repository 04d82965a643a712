"""Settings that no rule can work with are refused when the rule is built or applied, by name, and never train in silence."""

import math

import pytest
import torch
from method_table import NETS, ROWS, WITHOUT_GRADIENT, clusters, one_step
from torch import nn

import lightning_fwd as lf
from lightning_fwd.compare.scenario import Row, Training
from lightning_fwd.methods import METHODS
from lightning_fwd.models import MLP
from lightning_fwd.search import SchemeSearch

BAD = {
    "forward_forward": [
        {"threshold": math.nan}, {"threshold": "a"}, {"sharpness": 0}, {"sharpness": -1.0}, {"label_scale": 0.0},
        {"peer_normalisation": -0.1},
        {"greedy_steps": 1.5}, {"greedy_steps": 0}, {"pool": -1}, {"normalise_input": "no"}, {"seed": 1.5}, {"seed": 2**70},
    ],
    "local_loss": [{"temperature": 0.0}, {"temperature": math.inf}, {"pool": 2.5}, {"seed": "a"}],
    "pepita": [
        {"feedback_scale": math.nan}, {"feedback_scale": "1e-3"}, {"input_scale": 0.0}, {"input_scale": -1.0}, {"mirror_rounds": -1},
        {"mirror_interval": 1.5}, {"mirror_interval": -1}, {"mirror_share": 2.0}, {"mirror_noise": math.nan}, {"recompute": "no"},
    ],
    "sparse_update": [{"channels": "a"}, {"error_density": "ab"}, {"error_density": None}, {"integer_scales": 5},
                      {"integer_scales": {"layer1": (math.inf, 1.0)}}, {"seed": 1.5}],
    "sparse_training": [{"density": "a"}, {"interval": 1.5}, {"interval": 0}, {"until": -1}, {"fraction": math.nan}],
    "zeroth_order": [{"scale": math.inf}, {"scale": 0.0}, {"scale": 1e-12}, {"samples": 0}, {"samples": 1.5}, {"samples": True}],
    "statistics": [{"momentum": math.nan}, {"momentum": 2.0}],
    "alignment": [{"strength": -0.5}, {"strength": 1.5}, {"patch_strength": math.inf}, {"patches": -1}, {"samples": 0}, {"patches": 1.5}],
}  # fmt: skip


@pytest.mark.parametrize(("name", "bad"), [(name, bad) for name, every in BAD.items() for bad in every], ids=str)
def test_bad_settings_are_named(name, bad):
    (setting,) = bad
    net = MLP(16, (8,), 4) if name not in WITHOUT_GRADIENT else nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with pytest.raises(lf.LightningFwdError, match=f"{setting}(=|: )"):
        lf.rewrite(net, METHODS[name](**bad), torch.rand(2, 16))
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


def test_text_in_place_of_a_number_is_told():
    for make in (lambda: Training(lr="1e-3"), lambda: Row("a", lr="1e-3"), lambda: SchemeSearch({}, "mlp", ["noise=0.1"], lr="1e-3")):
        with pytest.raises(lf.LightningFwdError, match=r"lr='1e-3'[\s\S]*finite number"):
            make()


def test_one_dense_layer_by_its_name():
    net = nn.Sequential(*[nn.Linear(6, 6) for _ in range(11)], nn.Linear(6, 3))
    model = lf.rewrite(net, lf.SparseTraining(0.5, dense="10"), torch.rand(2, 6))
    paths = [mask.uses[0] for mask in model.inserted.weight_masks.values()]
    assert "10.weight" not in paths and "0.weight" in paths and "1.weight" in paths


HALF = [(row, kind) for row in ROWS for kind in row.nets if kind != "conv"]


@pytest.mark.parametrize(("row", "kind"), HALF, ids=[f"{row.name}-{kind}" for row, kind in HALF])
def test_a_step_in_bfloat16(row, kind):
    """Without Lightning a network may be half precision when it is rewritten: what is inserted follows it."""
    torch.manual_seed(1)
    net = NETS[kind]().bfloat16()
    x, y = clusters(net, 8)
    model = lf.rewrite(net, row.method(), x.bfloat16())
    one_step(model, x.bfloat16(), y)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        assert model.eval()(x.bfloat16()).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pepita_reads_the_labels_off_the_error(dtype):
    """bfloat16 rounds softmax and error by up to 1 in 128: no reason to doubt the loss. Another loss is refused in both."""
    torch.manual_seed(0)
    net, x, y = MLP(16, (12,), 4).to(dtype), torch.randn(32, 16, dtype=dtype), torch.arange(32) % 4
    model = lf.rewrite(net, lf.Pepita(output_error="modulated"), x).train()
    with model.step(y):
        loss = nn.functional.cross_entropy(3 * model(x) / 3, y)
    model.backward(loss)
    with model.step(y):
        loss = nn.functional.mse_loss(model(x).float(), 2.0 * nn.functional.one_hot(y, 4)) * 3
    with pytest.raises(lf.LightningFwdError, match="read the labels"):
        model.backward(loss)


def test_a_scheme_file_has_its_own_biases_and_its_paths_are_text(tmp_path):
    net, file = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), tmp_path / "scheme.yaml"
    file.write_text("train: {'0': 0.5}\nbiases: ['2']")
    with pytest.raises(lf.LightningFwdError, match="biases='all' beside the scheme"):
        lf.rewrite(net, lf.SparseUpdate(str(file), biases="all"), torch.rand(2, 6))
    file.write_text("train: {0: 0.5}")
    with pytest.raises(lf.LightningFwdError, match="in YAML '0', not 0"):
        lf.rewrite(net, lf.SparseUpdate(str(file)), torch.rand(2, 6))
