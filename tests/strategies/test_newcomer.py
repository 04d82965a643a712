"""The newcomer's benchmark: a rule's name alone learns from scratch, or refuses and says which can."""

import sys
from pathlib import Path

import pytest

import lightning_fwd as lf

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "benchmarks"))
from newcomer import fit, run

REFUSED = [name for name, rule in lf.METHODS.items() if rule.batch_norm != "train"]


@pytest.mark.parametrize("name", REFUSED)
def test_rules_for_trained_networks_refuse_and_name_those_that_can(name):
    accuracy, said = fit(name, 0, "val")
    assert accuracy is None and said.startswith("refused") and "'local_loss'" in said


@pytest.mark.slow
def test_every_name_reaches_nine_tenths_of_plain_training_or_refuses():
    for rule, accuracy, share, said in run(list(lf.METHODS), [3], "val", jobs=1):
        assert (accuracy is None and "refused" in said) or share >= 0.9, (rule, accuracy, said)
