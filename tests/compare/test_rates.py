"""Rates that were chosen before: from a file into the stages, by number of labels; and a comparison of a part."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml
from test_grid import GRID, figures

from lightning_fwd import LightningFwdError
from lightning_fwd.compare import Row, compare, compare_grid, load_scenario
from lightning_fwd.compare.cells import cells_of

ROW = "statistics + head"


def scenario(tmp_path, rates=None, overrides=None, **changes):
    file = tmp_path / "scenario.yaml"
    if rates is not None:
        (tmp_path / "rates.json").write_text(rates if isinstance(rates, str) else json.dumps(rates))
        changes["rates"] = "rates.json"
    file.write_text(yaml.safe_dump({**GRID, **changes}))
    return load_scenario(file, overrides)


def rate_of(cell):
    return cell.scenario.all_rows()[2].adaptation()[1].lr


def test_each_number_of_labels_takes_the_nearest_ones_rates(tmp_path):
    s = scenario(tmp_path, {"50": {ROW: {"sparse_update": 0.02}}, "1000": {ROW: {"sparse_update": 0.2}}}, labels=[40, 300, 1000])
    assert [rate_of(cell) for cell in cells_of(s, tmp_path)[:3]] == [(0.02,), (0.2,), (0.2,)]
    assert [row.stages for row in s.all_rows()[:2]] == [row.stages for row in cells_of(s, tmp_path)[0].scenario.all_rows()[:2]]
    plain = load_scenario(tmp_path / "scenario.yaml", {"rates": None})
    assert rate_of(cells_of(plain, tmp_path)[0]) == (0.03, 0.1)


def test_a_rate_of_the_file_is_the_rate_of_the_recipe(tmp_path):
    small = {"seeds": [0], "labels": [40], "drifts": ["noise=0.2"], "devices": ["stm32g474re"]}
    said = [*GRID["rows"][:2], {"name": ROW, "stages": [{"method": "statistics"}, {**GRID["rows"][2]["stages"][1], "lr": 0.03}]}]
    by_file = compare_grid(scenario(tmp_path, {"40": {ROW: {"sparse_update": 0.03}}}, **small), tmp_path / "file", jobs=1)
    by_hand = compare_grid(scenario(tmp_path, **small, rows=said), tmp_path / "hand", jobs=1)
    assert figures(by_file.results[0]) == figures(by_hand.results[0]) and by_file.prices == by_hand.prices
    chosen = compare_grid(scenario(tmp_path, **small), tmp_path / "hand", jobs=1)
    assert chosen.prices[ROW, 40] != by_hand.prices[ROW, 40]  # two candidates are more work
    again = load_scenario(tmp_path / "file" / "scenario.yaml")
    assert compare_grid(again, tmp_path / "file", jobs=1).results == by_file.results


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({"40": {"statistics+head": {"sparse_update": 0.1}}}, "no row 'statistics\\+head'"),
        ({"40": {ROW: {"head": 0.1}}}, "no stage 'head'"),
        ({"40": {"statistics": {"statistics": 0.1}}}, "no stage 'statistics' that learns"),
        ({"40": {ROW: {"sparse_update": -0.1}}}, "positive number"),
        ({"40": {ROW: {"sparse_update": "0.1"}}}, "positive number"),
        ({"few": {}}, "no rates"),
        ({"-3": {}}, "no rates"),
        ("[0.1]", "no rates"),
        ("{", "no rates"),
    ],
)
def test_rates_that_fit_nothing_are_refused(tmp_path, rates, said):
    with pytest.raises(LightningFwdError, match=said):
        scenario(tmp_path, rates)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LightningFwdError, match="chosen.json"):
        scenario(tmp_path, {"40": {}}) and load_scenario(tmp_path / "scenario.yaml", {"rates": "chosen.json"})


def test_overrides_stand_in_place_of_what_they_exclude(tmp_path):
    grid = {key: value for key, value in GRID.items() if key not in ("drifts", "labels")}
    one = grid | {"adapt_samples": 60, "data": {"dataset": "digits", "drift": "noise=0.1"}}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(one))
    s = load_scenario(tmp_path / "one.yaml", {"labels": [40], "drifts": ["contrast=0.3"]})
    assert s.labels == [40] and s.drifts == ["contrast=0.3"] and "drift" not in s.data
    assert load_scenario(tmp_path / "one.yaml").adapt_samples == 60


def test_some_rows_alone_and_the_others_later(tmp_path):
    s = scenario(tmp_path, seeds=[0], labels=[40], drifts=["noise=0.2"])
    part = compare_grid(s.only(["none", ROW]), tmp_path / "out", jobs=1)
    assert [r.method for r in part.results[0]] == ["none", ROW]
    assert [r for r in compare_grid(s, tmp_path / "out", jobs=1).results[0] if r.method != "statistics"] == part.results[0]
    with pytest.raises(LightningFwdError, match="no row 'heads'"):
        s.only(["heads"])


def test_nothing_is_rolled_back_where_nothing_is_held_back(tmp_path):
    harming = [{"method": "sparse_update", "settings": {"train": "head"}, "lr": 50.0, "epochs": 1}]
    rows = [{"name": "none"}, {"name": "guarded", "stages": harming}, {"name": "not", "stages": harming, "held_back": 0.0}]
    s = scenario(tmp_path, rows=rows, seeds=[0], labels=[40], drifts=["noise=0.2"])
    none, guarded, unguarded = compare(cells_of(s, tmp_path / "out")[0].scenario, tmp_path / "out", jobs=1)
    assert guarded.accuracy_adapted == none.accuracy_drifted and "rolled back" in guarded.note
    assert unguarded.accuracy_adapted != none.accuracy_drifted and "rolled back" not in unguarded.note
    with pytest.raises(LightningFwdError, match="leaves a choice open"):
        Row("x", stages=[{**harming[0], "lr": [0.1, 0.2]}], held_back=0)
    with pytest.raises(LightningFwdError, match="share"):
        Row("x", stages=harming, held_back=1.0)


def test_choose_rates_writes_what_a_recipe_reads(tmp_path, monkeypatch, capsys):
    file = scenario(tmp_path, drifts=["noise=0.2"], labels=[40]) and tmp_path / "scenario.yaml"
    tool = Path(__file__).parents[2] / "tools" / "benchmarks" / "choose_rates.py"
    monkeypatch.setattr(sys, "argv", ["choose_rates.py", "-c", str(file), "--out", str(tmp_path / "rates"), "--seeds", "7"])
    runpy.run_path(str(tool), run_name="__main__")
    written = json.loads((tmp_path / "rates" / "rates.json").read_text())
    assert (
        written["40"][ROW]["sparse_update"] in (0.03, 0.1)
        and "40 labels, statistics + head, sparse_update: 0.03 " in capsys.readouterr().out
    )
    assert load_scenario(file, {"rates": str(tmp_path / "rates" / "rates.json")}).rates[40] == written["40"]
