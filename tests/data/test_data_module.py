import os
import subprocess
import sys

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.utils.data import RandomSampler

from lightning_fwd.data import Drift, DriftDataModule, load_dataset
from lightning_fwd.data.loader import tensor_loader

DATA = os.environ.get("LIGHTNING_FWD_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="LIGHTNING_FWD_DATA is not set: no real data files")


NOISE = {"kind": "noise", "severity": 0.5}


class Linear(L.LightningModule):
    def __init__(self, num_classes: int = 10, input_size: int = 64) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(input_size, num_classes))
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch, _):
        self.seen.append(batch[1])
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("val/accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch, _):
        self.log("test/accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.5)


def trainer(tmp_path, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return L.Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **(quiet | options))


@pytest.fixture
def own_signals(tmp_path):
    random = np.random.default_rng(0)
    x, y = random.normal(5, 3, (80, 4, 20)).astype(np.float32), np.arange(80) % 4
    x[:, 3] = 7  # a dead channel
    for name, gain in (("source", 1), ("target", 2)):
        np.savez(tmp_path / f"{name}.npz", x_train=x[:60] * gain, y_train=y[:60], x_test=x[60:] * gain, y_test=y[60:])
    return tmp_path


def test_batches_have_the_stated_shapes():
    data = DriftDataModule(batch_size=50)
    assert (data.num_classes, data.input_shape, data.class_names[3], data.title) == (10, (1, 8, 8), "3", "digits")
    for loader, count in ((data.train_dataloader(), 1294), (data.val_dataloader(), 144), (data.test_dataloader(), 359)):
        batches = list(loader)
        assert batches[0][0].shape == (50, 1, 8, 8) and batches[0][0].dtype == torch.float32
        assert batches[0][1].shape == (50,) and batches[0][1].dtype == torch.int64
        assert sum(len(y) for _, y in batches) == count == len(loader.dataset)
    flat = data.changed(flatten=True)
    assert flat.input_shape == (64,) and next(iter(flat.test_dataloader()))[0].shape == (50, 64)


def test_a_batch_equals_its_samples_collated():
    loader = DriftDataModule(batch_size=7).test_dataloader()
    x, y = next(iter(loader))
    one_by_one = loader.collate_fn([loader.dataset[i] for i in range(7)])
    assert torch.equal(x, one_by_one[0]) and torch.equal(y, one_by_one[1])


def test_source_and_target_are_two_views():
    source = DriftDataModule(drift="noise", drift_severity=0.08)
    target = source.changed(view="target")
    assert target.title == "digits, noise=0.08" and source.title == "digits"
    for split in ("train", "val", "test"):
        (x, y), (drifted, labels) = source.tensors(split), target.tensors(split)
        assert torch.equal(y, labels) and 0.02 < (x - drifted).abs().mean() < 0.07
        assert torch.equal(source.tensors(split, view="target")[0], drifted)
    dataset = load_dataset("digits")
    assert torch.equal(source.tensors("test")[0], torch.from_numpy(dataset.x_test.copy()))
    x = source.tensors("test")[0]
    expected = Drift("noise", 0.08)(x, torch.arange(len(x)) + len(dataset.y_train))
    torch.testing.assert_close(target.tensors("test")[0], expected)


def test_few_samples_drift_as_they_do_among_all():
    target = DriftDataModule(drift="noise=0.1", view="target")
    everything = {tuple(row) for row in target.tensors("train")[0].flatten(1).mul(1e4).round().tolist()}
    few = target.changed(train_samples=30).tensors("train")[0]
    assert {tuple(row) for row in few.flatten(1).mul(1e4).round().tolist()} <= everything


def test_few_samples_are_stratified_seeded_and_not_in_validation():
    few = DriftDataModule(train_samples=50, seed=1)
    x, y = few.tensors("train")
    assert (y.bincount() == 5).all()
    again, other = few.changed(), few.changed(seed=2)
    assert torch.equal(again.tensors("train")[0], x) and not torch.equal(other.tensors("train")[0], x)
    rows = lambda x: {tuple(row) for row in x.flatten(1).tolist()}  # noqa: E731
    held = few.tensors("val")[0]
    assert len(rows(held)) == len(held) and not rows(x) & rows(held)
    assert torch.equal(few.changed(train_samples=20).tensors("val")[0], held)
    assert torch.equal(few.tensors("test")[0], other.tensors("test")[0])
    assert (few.changed(test_samples=100).tensors("test")[1].bincount() >= 9).all()


def test_normalisations_use_the_source():
    source = DriftDataModule(drift="brightness=0.3", normalize="standard")
    x = source.tensors("train")[0]
    assert abs(x.mean()) < 0.02 and x.std().item() == pytest.approx(1, abs=0.02)
    assert source.tensors("test", view="target")[0].mean() > 0.2
    raw = source.changed(normalize=None)
    torch.testing.assert_close(source.changed(normalize="byte").tensors("test")[0], raw.tensors("test")[0] * 255)


def test_calibration_batch_is_source_training_data():
    data = DriftDataModule(drift="noise", view="target", train_samples=20)
    batch = data.calibration_batch(128)
    assert batch.shape == (128, 1, 8, 8) and torch.equal(batch, data.calibration_batch(128))
    rows = lambda x: {tuple(row) for row in x.flatten(1).tolist()}  # noqa: E731
    assert rows(batch) <= rows(data.changed(view="source", train_samples=None).tensors("train")[0])
    assert len(data.calibration_batch(10**6)) == 1294


def test_own_signals_with_a_recorded_target(own_signals):
    source = DriftDataModule(str(own_signals / "source.npz"), target_dataset=str(own_signals / "target.npz"))
    assert source.input_shape == (4, 20)
    x = source.tensors("train")[0]
    torch.testing.assert_close(x[:, :3].mean((0, 2)), torch.zeros(3), atol=0.1, rtol=0)
    torch.testing.assert_close(x[:, :3].std((0, 2)), torch.ones(3), atol=0.1, rtol=0)
    assert (x[:, 3] == 0).all()
    target = source.changed(view="target")
    torch.testing.assert_close(target.tensors("test")[0].std((0, 2))[:3], torch.full((3,), 2.0), atol=0.3, rtol=0)
    drifted = source.changed(view="target", drift="gain_offset=0.2")
    assert not torch.equal(drifted.tensors("test")[0], target.tensors("test")[0])
    with pytest.raises(ValueError, match=r"target_dataset .* has input_shape \(4, 20\), the source 'digits' has"):
        source.changed(dataset="digits", view="target").tensors("test")
    with pytest.raises(ValueError, match="normalize='byte' is for images"):
        source.changed(normalize="byte").tensors("test")
    with pytest.raises(ValueError, match="no meaning on signals"):
        source.changed(view="target", drift="rotation").tensors("test")


def test_spectrograms_are_signals(tmp_path):
    x = np.random.default_rng(0).normal(-20, 10, (80, 1, 12, 9)).astype(np.float32)
    np.savez(tmp_path / "own.npz", x_train=x[:60], y_train=np.arange(60) % 4, x_test=x[60:], y_test=np.arange(20) % 4)
    source = DriftDataModule(str(tmp_path / "own.npz"), drift="noise=0.5")
    clean, noisy = source.tensors("train"), source.tensors("train", view="target")
    assert clean[0].shape == (54, 1, 12, 9) and clean[0].std().item() == pytest.approx(1, abs=0.05)
    assert (noisy[0] - clean[0]).std().item() == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ValueError, match="'rotation' has no meaning on signals"):
        source.changed(view="target", drift="rotation").prepare_data()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"drift": "blur=9"}, "too large"),
        ({"train_samples": 5000}, "train_samples must be at most 1294"),
        ({"test_samples": 5000}, "test_samples must be at most 359"),
    ],
)
def test_what_does_not_fit_the_data_is_told_before_anything_is_trained(change, said):
    with pytest.raises(ValueError, match=said):
        DriftDataModule(**{"drift": "noise", "view": "target"} | change).prepare_data()


@needs_data
def test_har_drifts_for_real():
    source = DriftDataModule("har", root=DATA)
    target = source.changed(view="target", train_samples=40)
    assert target.title == "HAR (watch)" and source.input_shape == (6, 64) and source.num_classes == 5
    x = source.tensors("train")[0]
    assert abs(x.mean()) < 0.05 and x.std().item() == pytest.approx(1, abs=0.05)
    assert target.tensors("train")[0].shape == (40, 6, 64) and len(target.tensors("test")[1]) == 2275
    assert target.hparams.drift == "device"
    made_up = source.changed(view="target", drift="noise", drift_severity=0.5)
    assert made_up.title == "HAR (phone), noise=0.5"
    with pytest.raises(ValueError, match="'watch'; known are: noise"):
        source.changed(drift="watch")
    with pytest.raises(ValueError, match="'both' of 'har' is a real one and has no severity"):
        source.changed(drift="both", drift_severity=1.0)


@needs_data
@pytest.mark.parametrize(
    "drift",
    [
        "subject+noise=0.5",
        ["subject", "noise=0.5"],
        ["subject+noise=0.5"],
        ("subject", {"kind": "noise", "severity": 0.5}),
        [["subject"], "noise=0.5"],
    ],
)
def test_har_simulated_drift_on_other_people(drift):
    people = DriftDataModule("har", drift="subject", view="target", root=DATA)
    noisy = people.changed(drift=drift)
    assert noisy.title == "HAR (phone, subjects from 16), noise=0.5" and noisy.real_drift == "subject"
    assert torch.equal(noisy.tensors("test", "source")[0], people.tensors("test", "source")[0])
    (x, y), (drifted, same) = people.tensors("test"), noisy.tensors("test")
    assert torch.equal(y, same) and (drifted - x).std().item() == pytest.approx(0.5, abs=0.01)
    again = DriftDataModule(**dict(noisy.hparams))
    assert torch.equal(again.tensors("test")[0], drifted)


@pytest.mark.parametrize(
    "drift",
    ["noise+subject", "noise=0.5 + subject", ["noise=0.5", "subject"], ["noise=0.5+subject"], "subject+subject", "subject+both",
     ["subject", "both"], "subject=3", "subject=3+noise=0.5", {"kind": "subject"}, ["noise", {"kind": "subject"}],
     {"kind": "subject", "severity": 3}],
)  # fmt: skip
def test_a_real_drift_in_another_place_is_told_where_it_belongs(drift):
    said = "is a real drift of 'har'; a real drift is one word that comes first, once and without a severity.*'(subject|both)[+]noise=0.5'"
    with pytest.raises(ValueError, match=said):
        DriftDataModule("har", drift=drift)


def test_what_is_no_drift_at_all_keeps_its_own_message():
    for drift in ("subject+", "subject++noise=0.5", ["subject", ""]):
        with pytest.raises(ValueError, match="there is nothing beside one of its [+]; a real drift is one word"):
            DriftDataModule("har", drift=drift)
    for drift in ("watch", "subject+watch", ["subject", "watch"], ["noise", {"kind": "watch"}]):
        with pytest.raises(ValueError, match="unknown drift 'watch'; known are: noise"):
            DriftDataModule("har", drift=drift)
    for drift in ("", [], {}, 3):
        with pytest.raises(ValueError, match="drift"):
            DriftDataModule("har", drift=drift)


@needs_data
def test_cifar_few_samples():
    target = DriftDataModule("cifar10", drift="contrast=0.3", view="target", train_samples=20, test_samples=50, root=DATA)
    assert target.title == "CIFAR-10 (JPEG), contrast=0.3"
    assert target.tensors("train")[0].shape == (20, 3, 32, 32)
    source, drifted = target.tensors("test", "source")[0], target.tensors("test")[0]
    torch.testing.assert_close(drifted.std((1, 2, 3)), 0.3 * source.std((1, 2, 3)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drift": "fog"}, "unknown drift 'fog'; known are"),
        ({"drift_severity": 0.1}, "without a drift"),
        ({"view": "target"}, "view='target' would be the source"),
        ({"view": "middle"}, "view must be 'source' or 'target', got 'middle'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"val_fraction": 1.0}, "val_fraction must be in 0..1"),
        ({"train_samples": 0}, "train_samples must be at least 1"),
        ({"normalize": "imagenet"}, "normalize must be None, 'standard' or 'byte'"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        DriftDataModule(**arguments)


def test_what_only_the_data_can_tell_is_refused_on_use():
    with pytest.raises(ValueError, match="train_samples must be at most 1294, all there are, got 2000"):
        DriftDataModule(train_samples=2000).tensors("train")
    with pytest.raises(ValueError, match="unknown data set 'nowhere'"):
        DriftDataModule("nowhere").prepare_data()


def test_shuffle_depends_on_seed_and_epoch_only():
    loader = lambda: DriftDataModule(batch_size=2000).train_dataloader()  # noqa: E731
    first, second = loader(), loader()
    epochs = [next(iter(first))[1] for _ in range(3)]
    assert not torch.equal(epochs[0], epochs[1]) and isinstance(first.sampler, RandomSampler)
    second.sampler.set_epoch(2)
    assert torch.equal(next(iter(second))[1], epochs[2])


def test_workers_give_the_same_batches():
    x, y = torch.arange(20.0)[:, None], torch.arange(20)
    for shuffle_seed in (None, 3):
        here, there = (list(tensor_loader(x, y, 8, shuffle_seed=shuffle_seed, num_workers=n)) for n in (0, 1))
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(here, there, strict=True))


def test_trains_in_lightning_and_resumes_with_the_same_batches(tmp_path):
    data, model = DriftDataModule(drift="noise=0.3", batch_size=128), Linear()
    fit = trainer(tmp_path, max_epochs=4)
    fit.fit(model, data)
    assert fit.callback_metrics["val/accuracy"] > 0.85
    on_source = fit.test(model, data, verbose=False)[0]["test/accuracy"]
    on_target = fit.test(model, data.changed(view="target"), verbose=False)[0]["test/accuracy"]
    assert on_source > 0.85 and on_target < on_source

    path = tmp_path / "half.ckpt"
    half, first = Linear(), trainer(tmp_path, max_epochs=2)
    first.fit(half, DriftDataModule(drift="noise=0.3", batch_size=128))
    first.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)
    assert saved["datamodule_hyper_parameters"]["drift"] == [{"kind": "noise", "severity": 0.3, "seed": 0}]
    rest = Linear()
    trainer(tmp_path, max_epochs=4).fit(rest, DriftDataModule(drift="noise=0.3", batch_size=128), ckpt_path=path)
    assert torch.equal(torch.cat(half.seen + rest.seen), torch.cat(model.seen))


def test_no_validation_part():
    data = DriftDataModule(val_fraction=0.0)
    assert data.val_dataloader() == [] and len(data.tensors("train")[1]) == 1438


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data.drift=noise", "--data.drift_severity=0.08"], "noise=0.08"),
        (["--data.drift=contrast=0.3+blur=3"], "contrast=0.3+blur=3"),
        (['--data.drift={"kind": "blur", "level": 1}'], "blur=3"),
        (['--data.drift=["blur=3", {"kind": "noise", "severity": 0.08}]'], "blur=3+noise=0.08"),
        (['--data.drift={"class_path": "lightning_fwd.data.Drift", "init_args": {"kind": "shift"}}'], "shift=3"),
        ([], "None"),
    ],
)
def test_the_command_line_reads_every_form(arguments, expected, tmp_path):
    class WithLinks(LightningCLI):
        def add_arguments_to_parser(self, parser):
            parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")

    defaults = {"accelerator": "cpu", "logger": False, "default_root_dir": str(tmp_path)}
    cli = WithLinks(Linear, DriftDataModule, run=False, save_config_callback=None, trainer_defaults=defaults, args=arguments)
    assert str(cli.datamodule.drift) == expected and cli.model.hparams.num_classes == 10


def test_drift_and_lookup_import_no_lightning():
    code = "import sys; sys.modules['lightning_fwd.data'] = type(sys)('lightning_fwd.data');"
    code += "sys.modules['lightning_fwd.data'].__path__ = [sys.argv[1]];"
    code += "import lightning_fwd.data.drift, lightning_fwd.data.lookup; sys.exit('lightning.pytorch' in sys.modules)"
    folder = os.path.dirname(sys.modules["lightning_fwd.data"].__file__)
    stub = "import sys; sys.modules['lightning_fwd'] = type(sys)('lightning_fwd');"
    stub += "sys.modules['lightning_fwd'].__path__ = [];"
    assert subprocess.run([sys.executable, "-c", stub + code, folder]).returncode == 0
