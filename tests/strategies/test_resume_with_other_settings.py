"""A checkpoint of one rule, loaded under another: the network's weights come along, and what does not is told."""

import warnings

import pytest
from method_table import NETS, Task, loader, tensors, trainer

import lightning_fwd as lf


def saved(method, tmp_path):
    run = trainer(method)
    run.fit(Task(NETS["mlp"]()), loader())
    run.save_checkpoint(tmp_path / "run.ckpt")
    return tmp_path / "run.ckpt"


def told(method, path):
    """Warnings about dropped state while testing under ``method``, and the module."""
    module = Task(NETS["mlp"]())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(method).test(module, loader(), ckpt_path=path, verbose=False)
    return [str(w.message) for w in caught if "inserted" in str(w.message)], module


def test_dropped_heads_are_told(tmp_path):
    path = saved(lf.LocalLoss(pool=2), tmp_path)
    (message,), module = told(lf.LocalLoss(pool=1), path)
    assert "4 tensors" in message and "_lfwd.heads.0" in message and "pool=2" in message and "pool=1" in message
    same, loaded = told(lf.LocalLoss(pool=2), path)
    assert not same
    weights = {name: value for name, value in tensors(loaded).items() if "_lfwd" not in name}
    assert all((tensors(module)[name] == value).all() for name, value in weights.items())


@pytest.mark.parametrize("rule", [lf.Backprop, lf.SparseUpdate])
def test_of_a_rule_that_inserts_nothing_there_is_nothing_to_tell(rule, tmp_path):
    assert told(lf.LocalLoss(), saved(rule(), tmp_path))[0] == []
