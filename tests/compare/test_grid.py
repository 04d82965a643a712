"""Several drifts and numbers of labels in one comparison: each cell is what it is alone, nothing is done twice, one table at the end."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections import Counter

import pytest
import yaml

import lightning_fwd.compare.run as run_module
from lightning_fwd import LightningFwdError
from lightning_fwd.compare import compare, compare_grid, load_scenario
from lightning_fwd.compare.costs import read_prices

HEAD = {"method": "sparse_update", "settings": {"train": "head"}, "lr": [0.03, 0.1], "steps": 6}
GRID = {
    "data": {"dataset": "digits", "test_samples": 100},
    "drifts": ["contrast=0.3", "noise=0.2"],
    "labels": [40, 80],
    "devices": ["stm32g474re", "stm32h735"],
    "model": "small_conv",
    "model_args": {"in_channels": 1, "widths": [4, 4]},
    "pretrain": {"epochs": 2, "batch_size": 64, "lr": 0.05},
    "controls": False,
    "seeds": [0, 1],
    "rows": [
        {"name": "none", "control": True},
        {"name": "statistics", "stages": [{"method": "statistics"}]},
        {"name": "statistics + head", "stages": [{"method": "statistics"}, HEAD]},
    ],
}


def scenario(tmp_path, **changes):
    file = tmp_path / "scenario.yaml"
    file.write_text(yaml.safe_dump({k: v for k, v in {**GRID, **changes}.items() if v is not None}))
    return load_scenario(file)


def figures(results):
    return [dataclasses.replace(r, seconds_per_step=0) for r in results]


@pytest.fixture
def counted(monkeypatch):
    """How often each part of the work is done."""
    seen = Counter()
    for name in ("pretrain", "price", "adapt"):
        known = getattr(run_module, name)

        def counting(*arguments, _name=name, _of=known, **named):
            seen[_name] += 1
            if _name == "adapt" and seen["adapt"] == seen["kill at"]:
                raise KeyboardInterrupt
            return _of(*arguments, **named)

        monkeypatch.setattr(run_module, name, counting)
    return seen


def test_a_grid_is_its_cells_killed_and_taken_up(tmp_path, counted):
    s, out = scenario(tmp_path), tmp_path / "out"
    counted["kill at"] = 8
    with pytest.raises(KeyboardInterrupt):
        compare_grid(s, out, jobs=1)
    assert not (out / "results.csv").exists() and counted["adapt"] == 8
    counted["kill at"] = -1
    done = compare_grid(s, out, jobs=1)
    assert counted["adapt"] == 8 + 4 * 6 - 7  # the killed one again
    assert counted["pretrain"] == 2 and counted["price"] == 3 * 2  # once per seed, once per row and number of labels
    lines = list(csv.DictReader((out / "results.csv").open()))
    assert len(lines) == 4 * 6 and list(lines[0])[-2:] == ["drift", "labels"] and list(lines[0])[:2] == ["method", "seed"]
    assert Counter((line["drift"], line["labels"]) for line in lines) == {(d, str(n)): 6 for d in GRID["drifts"] for n in GRID["labels"]}
    assert compare_grid(s, out, jobs=1).results == done.results and counted["adapt"] == 8 + 4 * 6 - 7 and counted["price"] == 6
    # a cell alone, from nothing, is the same
    alone = dataclasses.replace(s, data={**s.data, "drift": "noise=0.2"}, drifts=None, labels=None, adapt_samples=80)
    assert figures(compare(alone, tmp_path / "alone", jobs=1)) == figures(done.results[3])
    assert (out / "noise=0.2" / "80_labels" / "details.csv").exists() and not (tmp_path / "alone" / "80_labels").exists()
    # more drifts, rows that changed: only these run
    rows = [*GRID["rows"][:2], {**GRID["rows"][2], "stages": [{"method": "statistics"}, {**HEAD, "lr": 0.03}]}]
    more = compare_grid(scenario(tmp_path, drifts=[*GRID["drifts"], "contrast=0.5"], rows=rows), out, jobs=2)
    assert more.results[0][:4] == done.results[0][:4] and len(more.results) == 6
    assert len(list(csv.DictReader((out / "results.csv").open()))) == 6 * 6


def test_each_row_is_priced_on_each_device_and_a_changed_line_again(tmp_path, counted):
    s, out = scenario(tmp_path, seeds=[0], labels=[40]), tmp_path / "out"
    done = compare_grid(s, out, jobs=1)
    head, rows = done.prices["statistics + head", 40], {40: s.all_rows()}
    assert [on.device for on in head.on] == GRID["devices"] and head.on[0].ms > head.on[1].ms > 0 and head.on[0].microjoules > 0
    assert read_prices(s, rows, out) == done.prices and counted["price"] == 3
    (out / "costs.csv").write_text((out / "costs.csv").read_text().replace(str(head.peak_ram_bytes), "1"))
    assert ("statistics + head", 40) not in read_prices(s, rows, out)
    again = compare_grid(s, out, jobs=1)
    assert again.prices == done.prices and counted["price"] == 4 and counted["adapt"] == 6


def test_one_drift_and_one_number_are_the_plain_comparison(tmp_path):
    one = scenario(tmp_path, drifts=["noise=0.2"], labels=[40], seeds=[0], devices=None)
    plain = scenario(
        tmp_path, data={**GRID["data"], "drift": "noise=0.2"}, adapt_samples=40, drifts=None, labels=None, seeds=[0], devices=None
    )
    done = compare_grid(one, tmp_path / "one", jobs=1)
    assert figures(done.results[0]) == figures(compare(plain, tmp_path / "plain", jobs=1))
    files = [sorted(str(f.relative_to(tmp_path / name)) for f in (tmp_path / name).rglob("*")) for name in ("one", "plain")]
    assert files[0] == files[1] and compare(plain, tmp_path / "one", jobs=1) == done.results[0]
    assert (tmp_path / "one" / "scenario.yaml").read_text() == (tmp_path / "plain" / "scenario.yaml").read_text()


@pytest.mark.skipif(not os.environ.get("LIGHTNING_FWD_DATA"), reason="LIGHTNING_FWD_DATA is not set: no real data files")
def test_real_drifts_from_one_source_pretrain_one_network(tmp_path, counted):
    drifts = ["both", "subject+noise=0.5", "device", "subject", "noise=0.5"]
    har = {
        "data": {"dataset": "har", "test_samples": 100},
        "model": "small_conv1d",
        "model_args": {"in_channels": 6, "widths": [4, 4], "num_classes": 5},
        "rows": GRID["rows"][:1],
        "labels": None,
        "adapt_samples": 40,
    }
    s, out = scenario(tmp_path, **har, drifts=drifts), tmp_path / "out"
    done = compare_grid(s, out, jobs=1)
    assert counted["pretrain"] == 2 * 2  # per seed and source
    assert sorted(f.parent.name for f in out.rglob("pretrained")) == ["both", "device"]
    alone = dataclasses.replace(s, data={**s.data, "drift": "subject+noise=0.5"}, drifts=None)
    assert figures(compare(alone, tmp_path / "alone", jobs=1)) == figures(done.results[1])
    assert compare_grid(s, out, jobs=1).results == done.results and counted["pretrain"] == 2 * 2 + 2


def test_rows_that_begin_alike_run_their_first_stages_once_with_the_same_bits(tmp_path, monkeypatch):
    """Forward-Forward and PEPITA draw random numbers: what ran before them, or did not, must not move these."""
    drawing = [{"method": "forward_forward", "settings": {"batch_norm": "fold"}}, {"method": "pepita", "settings": {"batch_norm": "fold"}}]
    rows = [{"name": stage["method"], "stages": [{"method": "statistics"}, stage | {"lr": 0.03, "epochs": 1}]} for stage in drawing]
    small = {"seeds": [0], "drifts": None, "labels": None, "data": {**GRID["data"], "drift": "noise=0.2"}, "adapt_samples": 40}
    ran = []
    cells = __import__("lightning_fwd.compare.cells", fromlist=["adapt"])
    monkeypatch.setattr(cells, "adapt", lambda *a, _of=cells.adapt, **named: ran.append(1) or _of(*a, **named))
    together = compare(scenario(tmp_path, rows=rows, **small), tmp_path / "both", jobs=1)
    assert len(ran) == 1
    alone = [compare(scenario(tmp_path, rows=[row], **small), tmp_path / row["name"], jobs=1)[0] for row in rows]
    assert figures(together) == figures(alone)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"dataset": "digits", "drift": "noise=0.1"}}, "beside drifts"),
        ({"adapt_samples": 30}, "adapt_samples beside labels"),
        ({"device": "stm32h735"}, "device beside devices"),
        ({"drifts": []}, "drifts: \\[\\]"),
        ({"drifts": ["noise=0.2", "noise=0.2"]}, "each once"),
        ({"labels": [40, 0]}, "positive numbers"),
        ({"labels": 40}, "give a list"),
        ({"drifts": ["contrast=0.3", "nois=1"]}, "nois"),
        ({"labels": [40, 5000]}, "labels must be at most"),
        ({"devices": ["stm32h735", "no_board"]}, "no_board"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path, changes, said):
    with pytest.raises((LightningFwdError, ValueError), match=said):
        compare_grid(scenario(tmp_path, **changes), tmp_path / "out", jobs=1)
    assert not (tmp_path / "out").exists()


def test_folders_of_another_kind_are_refused(tmp_path):
    small = {"rows": GRID["rows"][:1], "seeds": [0]}
    s, out = scenario(tmp_path, **small), tmp_path / "out"
    compare_grid(s, out, jobs=1)
    with pytest.raises(LightningFwdError, match=r"another scenario\n.*pretrain.lr: 0.05 there, 0.1 here"):
        compare_grid(scenario(tmp_path, **small, pretrain={**GRID["pretrain"], "lr": 0.1}), out, jobs=1)
    kept = (out / "scenario.yaml").read_text()
    assert load_scenario(out / "scenario.yaml").drifts == GRID["drifts"]
    with pytest.raises(LightningFwdError, match="device: 'stm32g474re' there, 'stm32h735' here"):
        compare_grid(scenario(tmp_path, **small, devices=["stm32h735"]), out, jobs=1)
    assert (out / "scenario.yaml").read_text() == kept
    compare_grid(scenario(tmp_path, **small, devices=["stm32g474re"]), out, jobs=1)
    plain = scenario(tmp_path, **small, drifts=None, labels=None, data={**GRID["data"], "drift": "noise=0.2"})
    with pytest.raises(LightningFwdError, match="another scenario"):
        compare(plain, out, jobs=1)
    compare(plain, tmp_path / "plain", jobs=1)
    with pytest.raises(LightningFwdError, match="another scenario|under one drift"):
        compare_grid(s, tmp_path / "plain", jobs=1)
    with pytest.raises(LightningFwdError, match="use compare_grid"):
        compare(s, tmp_path / "third", jobs=1)
