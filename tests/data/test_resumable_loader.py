"""A fit that goes on from a checkpoint inside an epoch sees each of its batches once, and ends at the bits of one that was not
interrupted."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import lightning_fwd as lf
from lightning_fwd.data.loader import tensor_loader

X, Y = torch.arange(23.0)[:, None], torch.arange(23) % 3


def firsts(loader):
    return [x[:, 0].tolist() for x, _ in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_rest_of_an_epoch_and_then_whole_ones(workers):
    whole = tensor_loader(X, Y, 4, shuffle_seed=3)
    epochs = [firsts(whole) for _ in range(3)]
    stopped = tensor_loader(X, Y, 4, shuffle_seed=3, num_workers=workers)
    stopped.sampler.set_epoch(1)
    batches = iter(stopped)
    taken = [next(batches)[0][:, 0].tolist() for _ in range(2)]
    state = stopped.state_dict()
    assert state == {"epoch": 1, "batches": 2, "batch_size": 4, "samples": 23}  # workers are ahead; what was taken counts
    resumed = tensor_loader(X, Y, 4, shuffle_seed=3)
    resumed.load_state_dict(state)
    resumed.sampler.set_epoch(1)
    assert taken + firsts(resumed) == epochs[1] and firsts(resumed) == epochs[2]


def test_a_finished_epoch_leaves_nothing_to_skip():
    loader = tensor_loader(X, Y, 4, shuffle_seed=3)
    first = firsts(loader)
    resumed = tensor_loader(X, Y, 4, shuffle_seed=3)
    resumed.load_state_dict(loader.state_dict())
    resumed.sampler.set_epoch(1)
    assert len(firsts(resumed)) == len(first) == 6


def test_other_data_or_batches_are_told():
    loader = tensor_loader(X, Y, 4, shuffle_seed=3)
    batches = iter(loader)
    next(batches)
    for other in (tensor_loader(X, Y, 5, shuffle_seed=3), tensor_loader(X[:20], Y[:20], 4, shuffle_seed=3)):
        with pytest.raises(lf.LightningFwdError, match="inside an epoch, of data with (batch_size 4|samples 23)"):
            other.load_state_dict(loader.state_dict())
    firsts(loader)
    other = tensor_loader(X, Y, 5, shuffle_seed=3)
    other.load_state_dict(loader.state_dict())  # of the end of an epoch: of use with any batch size
    assert len(firsts(other)) == 5


class Seen(L.Callback):
    """Hashes of the batches of each epoch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, module, batch, index):
        self.seen.append((trainer.current_epoch, index, float(batch[0].sum())))


def fitted(folder, seen, strategy, resume=None, epochs=3):
    L.seed_everything(1, verbose=False)
    every = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = L.Trainer(
        max_epochs=epochs, strategy=strategy, accelerator="cpu", logger=False, callbacks=[every, seen], limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    module = lf.Classifier("mlp", {"in_features": 64, "hidden": [8], "dropout": 0.2}, schedule="cosine")
    data = lf.data.DriftDataModule("digits", flatten=True, batch_size=16, train_samples=70)  # 5 batches, the last one of 6
    trainer.fit(module, data, ckpt_path=resume)
    return {key: value.clone() for key, value in module.state_dict().items()}


SLOW = [pytest.param(strategy, marks=pytest.mark.slow) for strategy in ("local_loss", "pepita", "direct_feedback", "sparse_update")]


@pytest.mark.parametrize("strategy", ["forward_forward", *SLOW])
def test_resumed_at_any_step_a_fit_ends_as_if_it_had_not_been_stopped(strategy, tmp_path):
    whole = Seen()
    end = fitted(tmp_path / "whole", whole, strategy)
    assert len(whole.seen) == 15
    for step in (2, 5, 8):
        rest = Seen()
        resumed = fitted(tmp_path / f"from{step}", rest, strategy, tmp_path / "whole" / f"step={step}.ckpt")
        assert rest.seen == whole.seen[step:]
        assert resumed.keys() == end.keys() and all(torch.equal(resumed[key], end[key]) for key in end)
