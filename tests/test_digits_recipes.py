"""Digits from scratch through ``lightning-fwd fit``: the recipes reach what the README says. Slow: pytest -m slow
tests/test_digits_recipes.py"""

import importlib.util
import statistics
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "benchmarks" / "digits_from_scratch.py"


@pytest.mark.slow
def test_digits_from_scratch(tmp_path):
    spec = importlib.util.spec_from_file_location("digits_from_scratch", SCRIPT)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    accuracies = benchmark.run(tmp_path, seeds=[0, 1, 2])
    mean = {name: statistics.fmean(values) for name, values in accuracies.items()}
    assert mean["backprop"] >= 97.5
    assert mean["local_loss"] >= 97.0
    assert mean["forward_forward"] >= 95.5
    assert mean["pepita"] >= max(94.0, mean["frozen"] + 1.0)
    assert "| digits_pepita |" in benchmark.table(accuracies)
