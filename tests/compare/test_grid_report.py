"""The report of several drifts and numbers of labels: every section, true to the cells."""

from __future__ import annotations

import math

import pytest
from test_html_report import STAGED, read, result

from lightning_fwd.compare import Finished, Row, Scenario, write_grid_html, write_grid_markdown
from lightning_fwd.compare.cells import cells_of
from lightning_fwd.compare.costs import OnDevice, Price
from lightning_fwd.compare.grid_report import summarise_grid

DRIFTS, LABELS, DEVICES = ["noise=0.08", "blur=3"], [50, 200], ["stm32g474re", "stm32h735"]


@pytest.fixture
def finished(tmp_path):
    rows = [Row("none", control=True), Row("a <b>", **STAGED), Row("lost", "pepita")]
    scenario = Scenario(
        {"dataset": "digits"}, "small_conv", rows=rows, controls=False, seeds=[0, 1], drifts=DRIFTS, labels=LABELS, devices=DEVICES
    )
    cells = cells_of(scenario, tmp_path)
    results = []
    for cell in cells:
        better, note = 10 if cell.labels == 200 else 0, "in all 1 GMAC; rolled back: head (harm <here>)"
        results.append(
            [result("none", seed, 50.0, 0) for seed in (0, 1)]
            + [result("a <b>", 0, 70.0 + better, note=note if cell.drift == "blur=3" else ""), result("a <b>", 1, 72.0 + better)]
            + [result("lost", 0, 40.0), result("lost", 1, math.nan if cell.drift == "blur=3" else 42.0, note="it diverged")]
        )  # fmt: skip
    on = (OnDevice(DEVICES[0], 4.0, 700.0), OnDevice(DEVICES[1], 1.0, math.nan))
    prices = {(row.name, n): Price(row.name, n, *((0,) * 4 if row.name == "none" else (2000, 200_000, 10, 40_000)), on=on)
              for row in rows for n in LABELS}  # fmt: skip
    return Finished(scenario, cells, results, prices)


def test_figures_are_means_over_seeds_of_means_over_drifts(finished):
    none, staged, lost = summarise_grid(finished)[200]
    assert staged.adapted["blur=3"] == pytest.approx((81.0, math.sqrt(2))) and staged.mean == pytest.approx((81.0, math.sqrt(2)))
    assert staged.runs == 4 and staged.rolled_back == [("blur=3", 0, "head (harm <here>)")] and not staged.lost
    assert math.isnan(lost.mean[0]) and lost.failed == {"blur=3": "diverged in 1 of 2"}
    assert lost.lost["noise=0.08"][0] == pytest.approx(-9) and not none.lost


def test_the_table_has_drifts_mean_and_price(finished, tmp_path):
    write_grid_markdown(finished, file := tmp_path / "summary.md")
    text = file.read_text()
    assert "## 50 labels" in text and "## 200 labels" in text and "small_conv on" in text
    assert "| row | mean | noise=0.08 | blur=3 | RAM KiB | kMAC | ms, stm32g474re | ms, stm32h735 |" in text
    assert "| a <b> | 81.0±1.4 | 81.0±1.4 | 81.0±1.4 | 195.3 | 2 | 4.0 | 1.0 |" in text
    assert "| lost |  | 41.0±1.4 | diverged in 1 of 2 |" in text


def test_the_page_holds_each_section(finished, tmp_path):
    write_grid_html(finished, file := tmp_path / "report.html", "lightning-fwd compare -c 'my recipe.yaml' --out there")
    page, words = file.read_text(), " ".join(read(file).words)
    for heading in (
        "50 labels", "200 labels", "Accuracy in % over the number of labels", "Mean accuracy in % against cost", "What fits which board",
        "What the guard rolled back", "What ends below doing nothing", "What the columns mean", "Made by",
    ):  # fmt: skip
        assert heading in words, heading
    assert "-c 'my recipe.yaml'" in words and "1 of 4" in words and "head (harm <here>)" in words and "-9.0±1.4" in words
    assert "67 KiB short" in words and "fits" in words and "stm32g474re: 128 KiB" in words and "stm32h735: 564 KiB" in words
    curves, fronts = 3, 2 * (2 + 2 + 1)  # mean and each drift; per number of labels RAM, operations, two times and the one energy known
    assert page.count("<svg") == curves + fronts and page.count('class="limit"') == 2 * 2
    assert "http" not in page and "prefers-color-scheme:dark" in page
