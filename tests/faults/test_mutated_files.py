"""A slice of ``tools/faults``: damaged files end in one error, at once, or are read as what they are; killed runs end as if they had not
been."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "faults"))
from fault_kinds import KINDS  # noqa: E402
from kill import COMMANDS, trials  # noqa: E402
from mutate import run  # noqa: E402

SLOW = ("checkpoint", "recipe", "search", "adaptation", "moments", "program")  #: programs: tests/export/test_damaged_programs.py too
ALL = 500


@pytest.mark.parametrize("name", [name for name in KINDS if name not in SLOW])
def test_no_mutated_file_ends_in_a_traceback_a_hang_or_silence(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    outcomes = run(KINDS[name], tmp_path, 5 if name == "scenario" else 12, seed=1)
    assert set(outcomes) <= {"refused", "same", "other"}, capfd.readouterr().err
    assert outcomes["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_all_mutated_files(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert set(run(KINDS[name], tmp_path, ALL, seed=0)) <= {"refused", "same", "other"}, capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("fit", 20), ("compare", 8), ("search", 5), ("adapt", 8)])
def test_killed_runs_end_at_the_bits_of_one_left_alone(name, count, tmp_path):
    assert set(COMMANDS) == {"fit", "compare", "search", "adapt"}
    outcomes = trials(name, tmp_path, count, seed=1)
    assert outcomes["same"] == count, outcomes
