"""Callbacks and loggers of Lightning under every rule; weights averaged, evaluated before, between and after."""

import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from method_table import loader, tensors, trainer
from rules_in_lightning import RULES, every_rule, moved, task

import lightning_fwd as lf


@every_rule
def test_callbacks_and_loggers(rule, tmp_path):
    module = task("residual")
    data = loader(module.network)
    best = ModelCheckpoint(tmp_path, monitor="val_loss", save_top_k=2)
    callbacks = [best, EarlyStopping("val_loss", min_delta=100.0, patience=1), WeightAveraging()]
    logger = CSVLogger(tmp_path)
    run = trainer(RULES[rule](), max_epochs=5, callbacks=callbacks, logger=logger, enable_checkpointing=True)
    run.fit(module, data, data)
    assert run.current_epoch == 2  # stopped early
    assert best.best_model_path and (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().count("val_loss") == 1
    state = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    assert state.keys() == task("residual").state_dict().keys()


@pytest.mark.parametrize("rule", ["local_loss", "pepita"])
def test_averaged_weights_resume(rule, tmp_path):
    """With inserted heads too the averages after a resume are those of a run in one go."""
    averages = []
    for resume in (None, tmp_path / "epoch=1-step=12.ckpt"):
        module = task()
        each = ModelCheckpoint(tmp_path, save_top_k=-1)
        run = trainer(RULES[rule](), max_epochs=4, callbacks=[WeightAveraging(), each], enable_checkpointing=True)
        run.fit(module, loader(), ckpt_path=resume)
        averages.append(module.network.state_dict())
    assert all(torch.equal(averages[0][k], averages[1][k]) for k in averages[0])


def test_stochastic_weight_averaging_and_learning_rate_finder():
    module = task()
    run = trainer("pepita", max_epochs=4, callbacks=[StochasticWeightAveraging(0.01, swa_epoch_start=2)])
    run.fit(module, loader())
    module = task()
    before = tensors(module)
    finder = LearningRateFinder(num_training_steps=8, update_attr=False)
    trainer("local_loss", max_steps=0, callbacks=[finder], enable_checkpointing=True).fit(module, loader())
    assert len(finder.optimal_lr.results["loss"]) >= 5
    assert not moved(lf.unwrap(module), before), "the finder must give the weights back"


@pytest.mark.parametrize(
    "method", [lf.Pepita(), lf.Pepita(batch_norm="fold"), lf.SparseUpdate(), lf.ForwardForward(), lf.Statistics()], ids=repr
)
def test_stochastic_weight_averaging_leaves_statistics_that_a_rule_keeps(method):
    torch.manual_seed(1)
    states = []
    for callbacks in ([], [StochasticWeightAveraging(1e-9, swa_epoch_start=1, annealing_epochs=1)]):
        module = task("residual", lr=0.0)
        for norm in (module.network.bn1, module.network.bn2):
            norm.running_mean.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
        trainer(method, max_epochs=2, callbacks=callbacks).fit(module, loader(module.network))
        states.append(tensors(lf.unwrap(module)))
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-6) for name in states[0])
    assert module.network.bn1.momentum == 0.1


@pytest.mark.parametrize("method", ["backprop", "local_loss", lf.ForwardForward(batch_norm="train")], ids=repr)
def test_stochastic_weight_averaging_collects_statistics_anew_where_norms_train(method):
    states = []
    for rule in ("auto", method):
        module = task("residual", lr=0.0)
        swa = StochasticWeightAveraging(1e-9, swa_epoch_start=1, annealing_epochs=1)
        trainer(rule, max_epochs=2, callbacks=[swa]).fit(module, loader(module.network))
        states.append(tensors(lf.unwrap(module)))
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-5) for name in states[0] if "running" in name)


@every_rule
def test_evaluation_before_between_and_after(rule):
    module = task("residual")
    data = loader(module.network)
    plain = trainer("auto").validate(module, data, verbose=False)[0]["val_loss"]
    run = trainer(RULES[rule]())
    assert run.validate(module, data, verbose=False)[0]["val_loss"] == pytest.approx(plain, rel=1e-5)
    run.fit(module, data, data)
    after = run.test(module, data, verbose=False)[0]["val_loss"]
    predicted = torch.cat(run.predict(module, data))
    assert predicted.shape == (96, 4)
    lf.unwrap(module)
    assert trainer("auto").test(module, data, verbose=False)[0]["val_loss"] == pytest.approx(after, rel=1e-5)
