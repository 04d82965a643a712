"""The network is rewritten by the first batch that training draws: data is prepared once, and no batch is lost."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder, WeightAveraging
from method_table import NETS, Task, clusters, loader, tensors, trainer
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, TensorDataset

import lightning_fwd as lf


class Once(IterableDataset):
    """A stream that can be read once."""

    def __init__(self, count=4):
        self.batches = iter([clusters(count=8, seed=i) for i in range(count)])
        self.read = 0

    def __iter__(self):
        for batch in self.batches:
            self.read += 1
            yield batch


class Seen(Task):
    def __init__(self, net, **settings):
        super().__init__(net, **settings)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[0])
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("rule", ["auto", "local_loss"])
def test_a_stream_loses_nothing(rule):
    module, stream = Seen(NETS["mlp"]()), Once()
    trainer(rule).fit(module, DataLoader(stream, batch_size=None))
    assert stream.read == len(module.seen) == 4
    assert all(torch.equal(x, clusters(count=8, seed=i)[0]) for i, x in enumerate(module.seen))


class Data(L.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.calls = []

    def prepare_data(self):
        self.calls.append("prepare_data")

    def setup(self, stage):
        self.calls.append(f"setup {stage.value}")

    def train_dataloader(self):
        self.calls.append("train_dataloader")
        return loader()


class Configuring(Task):
    def __init__(self, net, data):
        super().__init__(net)
        self.data = data

    def configure_callbacks(self):
        self.data.calls.append("configure_callbacks")
        return []


def test_data_hooks_run_once_and_after_configure_callbacks():
    data = Data()
    trainer("pepita").fit(Configuring(NETS["mlp"](), data), datamodule=data)
    assert data.calls == ["configure_callbacks", "prepare_data", "setup fit", "train_dataloader"]


def test_a_batch_sampler():
    data = TensorDataset(*clusters())
    sampled = DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 12, False))
    whole = DataLoader(data, sampler=BatchSampler(RandomSampler(data), 12, False), batch_size=None)
    for source in (sampled, whole):
        module = Task(NETS["mlp"]())
        trainer("local_loss").fit(module, source)
        assert len(module.losses) == 8


def test_an_empty_loader_ends_as_a_plain_fit_does():
    module = Task(NETS["mlp"]())
    before = tensors(module)
    trainer("pepita").fit(module, DataLoader([], 4))
    assert all(torch.equal(t, before[n]) for n, t in tensors(module).items())


class Odd(Task):
    """Batches in which no input is found; labels nowhere."""

    def _picture(self, batch):
        return self(batch["pictures"]["left"])

    def validation_step(self, batch, batch_idx):
        self._picture(batch)

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return self._picture(batch)


@pytest.mark.parametrize("rule", lf.METHODS)
def test_evaluation_needs_no_example_and_no_labels(rule):
    module = Odd(NETS["conv"]())
    x = clusters(module.network, 8)[0]
    odd = DataLoader([{"pictures": {"left": one}} for one in x], 4)
    run = trainer(rule)
    run.validate(module, odd, verbose=False), run.test(module, odd, verbose=False)
    assert torch.equal(torch.cat(run.predict(module, odd)), module.network.eval()(x))


def test_predictions_of_heads_from_a_checkpoint(tmp_path):
    rule = lf.LocalLoss(prediction="sum")
    module = Task(NETS["mlp"]())
    run = trainer(rule, max_epochs=2)
    run.fit(module, loader())
    run.save_checkpoint(tmp_path / "a.ckpt")
    in_order = DataLoader(TensorDataset(*clusters(count=8)), 4)
    expected = torch.cat(run.predict(module, in_order))
    found = trainer(rule).predict(Task(NETS["mlp"]()), in_order, ckpt_path=tmp_path / "a.ckpt")
    assert torch.equal(torch.cat(found), expected)


@pytest.mark.parametrize("given", [False, True])
def test_a_network_built_in_setup(given):
    class Later(Task):
        def setup(self, stage):
            self.network = NETS["mlp"]()

    module = Later(None)
    if given:
        module.example_input_array = torch.zeros(2, 16)
    trainer("local_loss").fit(module, loader())
    assert isinstance(module.network, lf.RewrittenModel) and module.network.has_learned


def test_averages_hold_what_is_inserted_and_resume(tmp_path):
    states = []
    for halves in (False, True):
        torch.manual_seed(1)
        module = Task(NETS["mlp"]())
        if halves:
            first = trainer(lf.LocalLoss(), max_epochs=2, callbacks=[WeightAveraging()])
            first.fit(module, loader())
            first.save_checkpoint(tmp_path / "half.ckpt")
            assert any("_lfwd" in key for key in torch.load(tmp_path / "half.ckpt", weights_only=True)["lightning_fwd"]["averaged"])
            torch.manual_seed(1)
            module = Task(NETS["mlp"]())
            trainer(lf.LocalLoss(), max_epochs=2, callbacks=[WeightAveraging()]).fit(module, loader(), ckpt_path=tmp_path / "half.ckpt")
        else:
            trainer(lf.LocalLoss(), max_epochs=2, callbacks=[WeightAveraging()]).fit(module, loader())
        states.append(module.network.state_dict())
    assert states[0].keys() == states[1].keys()


def test_the_learning_rate_finder_leaves_the_network_as_before_its_steps():
    torch.manual_seed(1)
    module, before = Task(NETS["mlp"]()), None

    class Look(L.Callback):
        def on_train_start(self, trainer, pl_module):
            nonlocal before
            before = tensors(pl_module)

    torch.manual_seed(1)
    fresh = tensors(Task(NETS["mlp"]()))
    module.lr = 0.05
    trainer(lf.LocalLoss(), callbacks=[LearningRateFinder(num_training_steps=5), Look()]).fit(module, loader())
    assert all(torch.equal(before[n], t) for n, t in fresh.items())
    assert int(module.network.inserted.counter) == 6  # the finder's steps are not counted
