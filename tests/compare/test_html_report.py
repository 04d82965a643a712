"""The page of a comparison: whole in itself, true to the table, and safe with any text."""

import dataclasses
import html.parser
import math
import re

import pytest
import yaml

from lightning_fwd.cli import main
from lightning_fwd.compare import Row, Scenario, quick, summarise, write_html
from lightning_fwd.compare.folder import Result
from lightning_fwd.compare.html_report import label_curves
from lightning_fwd.compare.svg import Point, curves, front, scatter
from lightning_fwd.recipes import Training

STAGED = {"stages": [{"method": "sparse_update", "settings": {"train": "head"}, "lr": [0.1, 0.2, 0.3], "epochs": 9, "steps": 150}]}


class Reader(html.parser.HTMLParser):
    """Tags that are opened and closed in order, and what they load."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "path", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in ("path", "circle") or self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def scenario():
    rows = [Row("none"), Row("a <b> & c", "pepita", control=True), Row("staged", **STAGED), Row("lost", "pepita")]
    return Scenario(
        {"dataset": "digits", "drift": "noise=0.08"}, "small_conv", rows=rows, controls=False, seeds=[0, 1], device="stm32g474re"
    )


def result(method, seed, adapted, macs=1000, ram=20_000, note=""):
    return Result(method, seed, 90.0, 50.0, adapted, macs, ram, 10, 0.1, 5 if macs else 0, 80.0, 40_000, 2.0, note)


def read(file):
    reader = Reader()
    reader.feed(file.read_text())
    assert not reader.open and not reader.loads
    return reader


def test_the_page_holds_table_plots_boards_guard_and_command(scenario, tmp_path):
    results = [
        result("none", 0, 50.0, 0), result("none", 1, 52.0, 0), result("a <b> & c", 0, 70.0, ram=200_000),
        result("a <b> & c", 1, 71.0, ram=200_000),
        result("staged", 0, 80.0), result("staged", 1, 82.0, note="in all 1 GMAC; rolled back: head (it does harm)"),
        result("lost", 0, math.nan), result("lost", 1, math.nan, note="it diverged"),
    ]  # fmt: skip
    write_html(scenario, summarise(scenario, results), file := tmp_path / "report.html", "lightning-fwd compare -c 'my recipe.yaml'")
    page, words = file.read_text(), " ".join(read(file).words)
    assert "prefers-color-scheme:dark" in page and "width=device-width" in page and "http" not in page
    for said in (
        "a <b> & c",
        "81.0±1.4",
        "diverged",
        "seed 1: head (it does harm)",
        "-c 'my recipe.yaml'",
        "stm32g474re: 128 KiB",
        "67 KiB short",
        "fits",
    ):
        assert said in words, said
    assert page.count("<svg") == 3 and page.count('<g class="lost"') == 3  # rows that diverged stand in each plot


def test_nothing_rolled_back_is_said_and_without_costs_there_are_no_plots(scenario, tmp_path):
    results = [result(row.name, seed, 60.0, macs=0) for row in scenario.rows for seed in (0, 1)]
    write_html(scenario, summarise(scenario, results), file := tmp_path / "report.html", "x")
    words = " ".join(read(file).words)
    assert "Nothing." in words and "<svg" not in file.read_text()


def test_the_front_is_what_nothing_cheaper_beats():
    points = [Point(i, "", x, y, math.nan, False) for i, (x, y) in enumerate([(4, 9), (1, 5), (2, 4), (2, 7), (3, 7), (1, math.nan)])]
    assert [p.number for p in front(points)] == [1, 3, 0]


def test_points_stand_where_their_figures_say():
    shown = scatter([Point(1, "p", 10, 40, 2, False), Point(2, "q", 1000, 80, math.nan, True)], "KiB", {"before": 90}, [(100, "board")])
    (x1, y1), (x2, y2) = [tuple(map(float, c)) for c in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', shown)]
    limit = float(re.search(r'class="limit" d="M([\d.]+)', shown)[1])
    assert limit == pytest.approx((x1 + x2) / 2, abs=0.1)  # 100 lies in the middle of 10 and 1000
    assert y2 < y1 and x1 < x2
    level = float(re.search(r'class="level" d="M\d+ ([\d.]+)', shown)[1])
    assert (y1 - y2) / (y2 - level) == pytest.approx(40 / 10, abs=0.1)


def test_curves_over_labels(tmp_path):
    shown = curves({"one": [(100, 60, 1), (50, 50, math.nan), (10, math.nan, 0)], "<two>": [(50, 40, 0.5)]}, "labels")
    assert shown.count("<circle") == 2 and "&lt;two&gt;" in shown
    assert label_curves({"noise": {"one": [(50, 50, 1)]}, "blur": {"two": [(50, 50, 1)]}}).count("<svg") == 2


def test_quick_cuts_down_what_takes_time_and_keeps_the_rows(scenario):
    s = dataclasses.replace(scenario, pretrain=Training(epochs=30), adapt_samples=400)
    q = quick(s)
    assert q.seeds == [0] and q.adapt_samples == 50 and q.pretrain.epochs == 3 and q.adapt.epochs == 3 and q.data["test_samples"] == 200
    assert [row.name for row in q.rows] == [row.name for row in s.rows]
    assert q.rows[2].stages[0]["lr"] == [0.1, 0.2] and q.rows[2].stages[0]["epochs"] == 3 and "steps" not in q.rows[2].stages[0]
    several = quick(dataclasses.replace(s, data={"dataset": "digits"}, drifts=["noise=0.1", "blur=3", "contrast=0.3"], labels=[200, 400]))
    assert several.drifts == ["noise=0.1", "blur=3"] and several.labels == [50]
    assert quick(q) == q and s.rows[2].stages[0]["lr"] == [0.1, 0.2, 0.3]


def test_what_is_said_beside_quick_is_not_cut(tmp_path, monkeypatch):
    """Three drifts and 60 labels asked for were two and 50."""
    recipe, seen = tmp_path / "scenario.yaml", []
    recipe.write_text(
        yaml.safe_dump({"data": {"dataset": "digits"}, "drifts": list("abc"), "model": "mlp", "labels": [90], "seeds": [4, 5]})
    )

    def caught(scenario, *_args):
        seen.append((scenario.drifts, scenario.labels, scenario.seeds))
        raise ValueError

    monkeypatch.setattr("lightning_fwd.compare.compare_grid", caught)
    command = ["compare", "-c", str(recipe), "--out", str(tmp_path), "--quick"]
    for more in ([], ["--drifts", "x", "y", "z"], ["--labels", "60", "70"], ["--seeds", "1", "2"]):
        main([*command, *more])
    cut, asked = (["a", "b"], [50], [4]), (["x", "y", "z"], [60, 70], [1, 2])
    assert seen == [cut, (asked[0], *cut[1:]), (cut[0], asked[1], cut[2]), (*cut[:2], asked[2])]
