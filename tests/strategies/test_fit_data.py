"""Data that Lightning finds by itself, and randomness that the rules leave alone."""

import random

import lightning as L
import numpy as np
import pytest
import torch
from method_table import NETS, Task, clusters, loader, tensors, trainer
from rules_in_lightning import moved, task
from torch.utils.data import DataLoader, TensorDataset

import lightning_fwd as lf


def test_data_of_the_module_itself_and_example_input_array():
    class WithData(Task):
        def train_dataloader(self):
            return loader()

    trainer("pepita").fit(task(cls=WithData))

    class WithExample(Task):
        example_input_array = torch.zeros(1, 16)

    module = task(cls=WithExample)
    trainer("local_loss").fit(module, loader())
    assert module.network.input_shape == (16,)


class TrainingData(L.LightningDataModule):
    def train_dataloader(self):
        return loader()


class RandomSplit(L.LightningDataModule):
    def setup(self, stage):
        x, y = clusters()
        self.part, _ = torch.utils.data.random_split(TensorDataset(x, y), [64, 32])
        self.order = (random.random(), np.random.rand())

    def train_dataloader(self):
        return DataLoader(self.part, 16)


class SplittingItself(Task):
    setup, train_dataloader = RandomSplit.setup, RandomSplit.train_dataloader


@pytest.mark.parametrize("who", ["data module", "module"])
def test_a_random_split_is_that_of_plain_training(who):
    splits = []
    for strategy in ("auto", "local_loss"):
        module, data = (Task(NETS["mlp"]()), RandomSplit()) if who == "data module" else (SplittingItself(NETS["mlp"]()), None)
        L.seed_everything(3, verbose=False)
        trainer(strategy).fit(module, datamodule=data)
        splits.append(((data or module).part.indices, (data or module).order))
    assert splits[0] == splits[1]


class Counted(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(zip(*clusters(), strict=True))

    def __len__(self):
        return 96


def test_an_iterable_dataset_that_knows_its_length():
    module = task()
    before = tensors(module)
    trainer("local_loss").fit(module, DataLoader(Counted(), 16))
    assert moved(lf.unwrap(module), before)


def test_loaders_after_a_data_module_that_has_none_of_them():
    module, run = task(), trainer("local_loss")
    run.fit(module, TrainingData())
    assert run.test(module, loader(), verbose=False) and len(run.predict(module, loader())) == 6
    lf.unwrap(module)
    assert len(run.predict(module, loader())) == 6  # rewritten again, from this call's data


def test_the_sampler_and_the_generator_are_not_disturbed():
    seen = []

    class Watch(Task):
        def training_step(self, batch, batch_idx):
            seen[-1].append(batch[0])
            return super().training_step(batch, batch_idx)

    for strategy in ("auto", "backprop"):
        seen.append([])
        torch.manual_seed(3)
        x, y = clusters()
        data = DataLoader(list(zip(x, y, strict=True)), 16, shuffle=True)
        module = Watch(NETS["mlp"]())
        torch.manual_seed(4)
        trainer(strategy, max_epochs=2).fit(module, data)
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_backprop_is_plain_training_to_the_bit():
    states = []
    for strategy in ("auto", "backprop"):
        module = task("residual")
        torch.manual_seed(4)
        trainer(strategy, max_epochs=2).fit(module, loader(module.network))
        states.append(lf.unwrap(module).state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_strategy_sits_in_a_plain_trainer_signature():
    assert isinstance(L.Trainer(strategy="pepita", accelerator="cpu", logger=False).strategy, lf.ForwardOnlyStrategy)
