"""The benchmark of the guard: what it says the guard takes is what an adaptation takes."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import yaml
from test_grid import GRID, HEAD

import lightning_fwd as lf
from lightning_fwd.compare import load_scenario
from lightning_fwd.compare.cells import cells_of
from lightning_fwd.recipes import pretrained

TOOL = Path(__file__).parents[2] / "tools" / "benchmarks" / "guard.py"


def test_what_it_takes_is_what_an_adaptation_takes(tmp_path, monkeypatch, capsys):
    rows = [
        {
            "name": "a",
            "stages": [{"method": "statistics"}, {**HEAD, "lr": [1e-9, 0.1]}, {"method": "alignment", "settings": {"strength": 0}}],
        }
    ]
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump({**GRID, "rows": rows, "drifts": ["contrast=0.3"], "labels": [40], "devices": ["stm32g474re"]}))
    monkeypatch.setattr(sys, "argv", [str(TOOL), "-c", str(recipe), "--out", str(out), "--seeds", "3"])
    tool = runpy.run_path(str(TOOL), run_name="__main__")
    said = capsys.readouterr().out
    assert "(the guard: and right answers)" in said and "(the guard: and more than chance)" in said
    cell = cells_of(load_scenario(recipe), out)[0]
    target = cell.scenario.data_module(3, "target")
    network = pretrained(cell.scenario, cell.weights_file(3))
    stages = [
        stage.prepared(network, cell.scenario.data_module(3, "source"), tmp_path / "net") for stage in cell.scenario.rows[0].adaptation()
    ]
    x, y = target.tensors("train")
    tried = tool["tried_in"](network, stages, x, y, 1 / 3, 3, target.tensors("test"))
    done = lf.adapt(network, stages, (x, y), seed=3, refit=False)
    for one, stage in zip(tried, done.stages, strict=True):
        taken = one.taken(tool["guard"](one.learns))
        assert (taken is not None) is stage.kept and one.before.loss == stage.before
        assert taken is None or one.after[taken].loss == stage.after
    lines = [json.loads(line) for line in (out / "guard.jsonl").read_text().splitlines()]
    assert len(lines) == sum(len(one.after) for one in tried) and [line["test"] for line in lines] == [
        t for one in tried for t in one.tests[1:]
    ]
    assert any(stage.kept for stage in done.stages)
