"""The comparison: every mistake found before work starts, every finished row kept, the table true to its rows."""

import csv
import dataclasses
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

import lightning_fwd.compare.run as run_module
from lightning_fwd import LightningFwdError
from lightning_fwd.compare import compare, load_scenario, plot_pareto, print_table, summarise, write_markdown
from lightning_fwd.compare.costs import price
from lightning_fwd.compare.folder import Result
from lightning_fwd.cost.device import EXAMPLE
from lightning_fwd.models import build

TINY = {
    "data": {"dataset": "digits", "drift": "contrast=0.3"},
    "model": "small_conv",
    "model_args": {"in_channels": 1, "widths": [8, 8]},
    "pretrain": {"epochs": 2, "batch_size": 64, "lr": 0.05},
    "adapt": {"epochs": 1, "batch_size": 16, "lr": 0.003},
    "adapt_samples": 32,
    "controls": False,
    "seeds": [0],
    "rows": [{"name": "none"}, {"name": "statistics", "method": "statistics"}, {"name": "pepita", "method": "pepita"}],
}
SPEC_COLUMNS = [
    "method", "seed", "accuracy_source", "accuracy_drifted", "accuracy_adapted",
    "macs_per_step", "peak_ram_bytes", "weight_bytes", "seconds_per_step", "steps",
]  # fmt: skip


def scenario(tmp_path, **changes):
    file = tmp_path / "scenario.yaml"
    file.write_text(yaml.safe_dump({**TINY, **changes}))
    return load_scenario(file)


def test_eighty_columns_cut_no_figure(tmp_path, capsys):
    s = scenario(tmp_path, rows=[{"name": "direct_feedback mirrored", "method": "direct_feedback"}])
    figures = dict.fromkeys(("accuracy_source", "accuracy_drifted"), 98.25) | {"accuracy_adapted": 89.75, "accuracy_source_after": 82.5}
    costs = {"macs_per_step": 1_241_000, "peak_ram_bytes": 2**20, "weight_bytes": 9, "flash_bytes": 2**19, "device_ms_per_step": 119.9}
    results = [Result("direct_feedback mirrored", seed, **figures, **costs, seconds_per_step=0.1, steps=3) for seed in s.seeds]
    print_table(s, summarise(s, results), Console(width=80))
    said = capsys.readouterr().out
    assert "…" not in said and all(text in said for text in ("1,241", "1024.0", "512.0", "119.9", "mirrored"))


def test_writes_table_summary_and_plot(tmp_path):
    s, out = scenario(tmp_path), tmp_path / "out"
    results = compare(s, out, jobs=1)
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert list(rows[0]) == SPEC_COLUMNS
    assert [r["method"] for r in rows] == ["none", "statistics", "pepita"]
    none, statistics, pepita = results
    assert none.accuracy_drifted == none.accuracy_adapted and none.steps == 0
    assert statistics.accuracy_adapted != statistics.accuracy_drifted
    assert pepita.steps == 2 and pepita.macs_per_step > statistics.macs_per_step > 0
    lines = summarise(s, results)
    print_table(s, lines, Console(quiet=True))
    write_markdown(s, lines, out / "summary.md")
    plot_pareto(s, lines, out / "pareto.png")
    assert "| pepita |" in (out / "summary.md").read_text()
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_finished_rows_are_not_run_again(tmp_path, monkeypatch):
    s, out, ran = scenario(tmp_path), tmp_path / "out", []
    adapt = run_module.adapt
    monkeypatch.setattr(run_module, "adapt", lambda s, row, *rest: ran.append(row.name) or adapt(s, row, *rest))
    compare(dataclasses.replace(s, rows=s.rows[:1]), out, jobs=1)
    resumed = compare(s, out, jobs=1)
    assert ran == ["none", "statistics", "pepita"]
    again = compare(s, out, jobs=1)
    assert ran == ["none", "statistics", "pepita"] and again == resumed


def test_a_row_with_new_settings_is_run_again_and_only_that(tmp_path, monkeypatch):
    s, out, ran = scenario(tmp_path), tmp_path / "out", []
    adapt = run_module.adapt
    monkeypatch.setattr(run_module, "adapt", lambda s, row, *rest: ran.append(row.name) or adapt(s, row, *rest))
    first = compare(s, out, jobs=1)
    changed = dataclasses.replace(s, rows=[*s.rows[:2], dataclasses.replace(s.rows[2], lr=0.03)])
    second = compare(changed, out, jobs=1)
    assert ran == ["none", "statistics", "pepita", "pepita"]
    assert second[:2] == first[:2] and second[2].accuracy_source_after != first[2].accuracy_source_after


def test_a_run_killed_between_the_two_tables_loses_one_row_at_most(tmp_path):
    s, out = scenario(tmp_path), tmp_path / "out"
    compare(dataclasses.replace(s, rows=s.rows[:2]), out, jobs=1)
    lines = (out / "results.csv").read_text().splitlines(keepends=True)
    (out / "results.csv").write_text("".join(lines[:-1]))
    assert [r.method for r in compare(s, out, jobs=1)] == ["none", "statistics", "pepita"]


def test_parallel_equals_serial(tmp_path):
    s = scenario(tmp_path, rows=TINY["rows"][:2], seeds=[0, 1])
    serial, parallel = (compare(s, tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2))
    assert len(serial) == 4
    strip = [[dataclasses.replace(r, seconds_per_step=0) for r in results] for results in (serial, parallel)]
    assert strip[0] == strip[1]


def test_heads_are_fitted_to_the_source_before_the_target_s_statistics_come_in(tmp_path):
    row = {"name": "local", "method": "local_loss", "settings": {"batch_norm": "freeze", "prediction": "last"}, "lr": 1e-9}
    rows = [row, {**row, "name": "calibrated", "calibrate": True}, {**row, "name": "both", "calibrate": True, "after_statistics": True}]
    s = scenario(tmp_path, rows=[{"name": "none"}, *rows], pretrain={"epochs": 8, "batch_size": 32, "lr": 0.05})
    none, drawn, calibrated, both = compare(s, tmp_path / "out", jobs=1)
    assert drawn.accuracy_source_after < 40  # heads as drawn, hardly trained
    assert calibrated.accuracy_source_after > none.accuracy_source - 15
    assert both.accuracy_adapted > calibrated.accuracy_adapted


def test_what_a_row_freezes_stays_and_costs_less(tmp_path):
    row = {"name": "all", "method": "backprop", "settings": {"batch_norm": "freeze"}, "lr": 0.05}
    head = {"name": "head", "method": "sparse_update", "lr": 0.05}
    s = scenario(tmp_path, rows=[row, {**row, "name": "frozen", "freeze": ["stage1", "stage2"]}, head])
    every, frozen, head = compare(s, tmp_path / "out", jobs=1)
    assert frozen.macs_per_step < every.macs_per_step
    assert frozen.accuracy_adapted == head.accuracy_adapted != every.accuracy_adapted


def test_accuracy_on_the_validation_part(tmp_path):
    s = scenario(tmp_path, rows=TINY["rows"][:1], split="val")
    (none,) = compare(s, tmp_path / "out", jobs=1)
    _, labels = s.data_module(0, "target").tensors("val")
    assert (none.accuracy_drifted * len(labels) / 100) % 1 == pytest.approx(0, abs=1e-6)
    assert len(labels) < 200


def test_same_seed_same_result(tmp_path):
    s = scenario(tmp_path, rows=TINY["rows"][2:])
    first, second = (compare(s, tmp_path / name, jobs=1)[0] for name in "ab")
    assert dataclasses.replace(first, seconds_per_step=0) == dataclasses.replace(second, seconds_per_step=0)


def test_a_rule_that_does_not_apply_is_said_in_the_table(tmp_path):
    s = scenario(tmp_path, model="mlp", model_args={"in_features": 64, "hidden": [16]})
    results = {r.method: r for r in compare(s, tmp_path / "out", jobs=1)}
    assert "no batch norm" in results["statistics"].note
    assert results["pepita"].accuracy_adapted == results["pepita"].accuracy_adapted  # the others still ran
    write_markdown(s, summarise(s, list(results.values())), tmp_path / "summary.md")
    assert "n/a" in (tmp_path / "summary.md").read_text()


def test_a_row_that_diverges_is_a_row_that_says_so_at_every_run(tmp_path):
    row = {"name": "wild", "method": "backprop", "lr": 1e6, "epochs": 2}
    s, out = scenario(tmp_path, rows=[*TINY["rows"][:1], row], seeds=[0, 1]), tmp_path / "out"
    for _ in range(2):  # the second run reads what the first wrote
        lines = summarise(s, compare(s, out, jobs=1))
        assert [line.failed for line in lines] == ["", "diverged"] and lines[1].note
        write_markdown(s, lines, out / "summary.md")
        print_table(s, lines, Console(quiet=True))
        plot_pareto(s, lines, out / "pareto.png")
    assert "| wild | diverged |" in (out / "summary.md").read_text()


def test_a_last_step_that_destroys_the_weights_and_one_seed_of_two_are_told(tmp_path):
    row = {"name": "wild", "method": "backprop", "lr": 3e38, "epochs": 1}
    s = scenario(tmp_path, rows=[row], adapt={"epochs": 1, "batch_size": 32})  # one step: no loss sees its weights
    (wild,) = compare(s, tmp_path / "out", jobs=1)
    assert wild.steps == 1 and "it diverged" in wild.note
    fine = dataclasses.replace(wild, seed=1, accuracy_adapted=50.0, accuracy_source_after=50.0, note="")
    (line,) = summarise(dataclasses.replace(s, seeds=[0, 1]), [fine, wild])
    assert line.failed == "diverged in 1 of 2" and "it diverged" in line.note


def test_controls_get_the_head_start_of_the_rules(tmp_path):
    rows = {row.name: row for row in scenario(tmp_path, controls=True, after_statistics=True).all_rows()}
    assert {name for name, row in rows.items() if not row.after_statistics} == {"none", "statistics"}
    assert rows["backprop"].control and rows["pepita"].after_statistics
    assert not any(row.after_statistics for row in scenario(tmp_path, controls=True).all_rows())


def test_a_row_that_does_not_fit_the_device_says_by_how_much_and_why(tmp_path):
    device = yaml.safe_load(EXAMPLE) | {"name": "tiny", "sram_bytes": {"value": 3000, "kind": "estimate", "source": "a test"}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(device))
    s = scenario(tmp_path, rows=[{"name": "all", "method": "backprop"}], device=str(tmp_path / "tiny.yaml"))
    cost = price(s, s.rows[0])
    missing = cost.peak_ram_bytes - 3000
    assert f"does not fit tiny: {missing:,} B of RAM too many, of which " in cost.note and " takes " in cost.note
    assert not price(dataclasses.replace(s, device="stm32h735"), s.rows[0]).note


def test_adapted_weights_are_kept_on_request_also_of_rows_that_had_finished(tmp_path):
    rows = [{"name": "all/of it", "method": "backprop", "settings": {"batch_norm": "freeze"}}]
    s, out = scenario(tmp_path, rows=rows), tmp_path / "out"
    compare(s, out, jobs=1)
    assert not (out / "adapted").exists()
    (result,) = compare(s, out, jobs=1, keep_weights=True)
    net = build(s.model, **s.model_args)
    net.load_state_dict(load_file(out / "adapted" / "all%2Fof it_seed0.safetensors"))
    assert run_module.accuracy(net, *s.data_module(0, "target").tensors("test")) == result.accuracy_adapted


def test_the_caller_s_process_is_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    generator, environment, filters = torch.get_rng_state(), dict(os.environ), list(warnings.filters)
    level = logging.getLogger("lightning.pytorch").level
    compare(scenario(tmp_path, rows=TINY["rows"][1:2]), tmp_path / "out", jobs=1)
    assert torch.equal(torch.get_rng_state(), generator) and dict(os.environ) == environment
    assert list(warnings.filters) == filters and logging.getLogger("lightning.pytorch").level == level


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"accelerator": "tpu"}, "accelerator"),
        ({"rows": [{"name": "x", "method": "pepitta"}]}, "unknown method 'pepitta'"),
        ({"rows": [{"name": "x", "method": "pepita", "settings": {"feedbck": 1}}]}, "feedback_scale"),
        ({"rows": [{"name": "x"}, {"name": "x"}]}, "same name"),
        ({"rows": [{"nam": "x"}]}, "row 1: unknown nam"),
        (
            {
                "rows": [
                    {"name": "x", "method": "local_loss", "settings": {"batch_norm": "fold"}, "calibrate": True, "after_statistics": True}
                ]
            },
            "a folded norm has none left",
        ),
        ({"rows": [{"name": "x", "method": "pepita", "freeze": "stem"}]}, "row 'x': freeze is 'stem'"),
        ({"rows": [{"name": "x", "method": "pepita", "freeze": ["stem"]}]}, "'stem' is no module with parameters(.|\n)*the network has: "),
        ({"adaptt": {}}, "unknown adaptt"),
        ({"adapt": {"epoch": 3}}, "unknown epoch"),
        ({"seeds": []}, r"seeds=\[\](.|\n)*one at least"),
        ({"seeds": [0, 1, 0]}, r"seeds=\[0, 1, 0\](.|\n)*each seed once"),
        ({"seeds": [0, -1]}, r"seeds=\[0, -1\](.|\n)*from 0"),
        ({"data": TINY["data"] | {"drift_seed": -1}}, "drift_seed must be a seed"),
        ({"adapt_samples": 1}, r"training part of .* \(target\) has one class: .(.|\n)*more samples \(adapt_samples\)"),
        ({"rows": [{"name": "x", "method": "pepita", "settings": 3}]}, "row 'x': settings is 3"),
        ({"data": {"dataset": "digits", "drft": "noise"}}, "'drft'\n.*known keys: dataset, drift"),
        ({"data": TINY["data"] | {"train_samples": 60}}, "train_samples=60\n.*the key adapt_samples, or labels"),
        ({"data": TINY["data"] | {"batch_size": 8}}, "batch_size=8\n.*a key of pretrain and of adapt"),
        ({"data": TINY["data"] | {"seed": 1}}, "seed=1\n.*the key seeds"),
        ({"data": TINY["data"] | {"view": "source"}}, "view='source'\n.*both views"),
        ({"data": {"dataset": "digits", "drift": "blur=9"}}, "blur=9: too large"),
        ({"data": {"dataset": "digits", "drift": "rotation=200"}}, "severity 200.* is outside -180..180"),
        ({"adapt_samples": 5000}, "adapt_samples must be at most 1294"),
        ({"model_args": {"in_channels": 3}}, r"cannot take the data's samples \(1, 8, 8\)"),
        ({"model_args": {"in_channels": 1, "num_classes": 5}}, r"gives \(2, 5\).*10 classes(.|\n)*number of outputs"),
        ({"weights": "nowhere.ckpt"}, "cannot read the weights 'nowhere.ckpt'"),
        (
            {"pretrain": None},
            r"small_conv is right on 1... % .*by chance it would be 10.0 %\n.*without trained weights(.|\n)*weights: FILE",
        ),
    ],
)
def test_mistakes_in_the_scenario_are_found_before_anything_runs(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        compare(scenario(tmp_path, **changes), tmp_path / "out", jobs=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["train", "test"])
def test_data_of_one_class_are_refused(tmp_path, part):
    x, y = np.random.default_rng(0).random((40, 1, 8, 8), "f4"), np.arange(40) % 2
    np.savez(tmp_path / "one.npz", x_train=x, y_train=y * (part == "test"), x_test=x, y_test=0 * y)
    s = scenario(tmp_path, data={"dataset": str(tmp_path / "one.npz"), "drift": "noise=0.1"}, adapt_samples=8)
    with pytest.raises(LightningFwdError, match=f"{part}.* has one class: 0\n.*nothing to learn"):
        compare(s, tmp_path / "out", jobs=1)
    assert not (tmp_path / "out").exists()


HEAD = {"method": "sparse_update", "settings": {"train": "head"}}


@pytest.mark.parametrize(
    "row",
    [
        {"name": "none", "method": "backprop"},
        {"name": "none", "after_statistics": True},
        {"name": "none", "stages": [{"method": "statistics"}]},
        {"name": "statistics"},
        {"name": "statistics", "method": "alignment"},
        {"name": "statistics", "stages": [{"method": "statistics"}, HEAD]},
        {"name": "head", "method": "local_loss"},
        {"name": "head", "method": "sparse_update", "settings": {"train": "biases"}},
        {"name": "head", "method": "sparse_update", "settings": {"train": "head", "biases": "all"}},
        {"name": "head", "stages": [HEAD | {"head": "blocks"}]},
        {"name": "head", "stages": [HEAD | {"choose": [{"train": "head"}, {"train": 2}]}]},
        {"name": "biases", "stages": [{"method": "backprop"}, {"method": "sparse_update", "settings": {"train": "biases"}}]},
        {"name": "last block", **HEAD},
        {"name": "last block", "method": "sparse_update", "settings": {"train": {"stage2": 0.5}}},
        {"name": "backprop", "method": "pepita"},
    ],
)
def test_a_row_with_a_control_s_name_is_that_control(tmp_path, row):
    with pytest.raises(LightningFwdError, match=f"(?s)row '{row['name']}': .*is the name of a control.*another name"):
        scenario(tmp_path, rows=[row])
    scenario(tmp_path, rows=[row | {"name": "mine"}])


def test_controls_at_rates_of_their_own(tmp_path):
    last = {"method": "sparse_update", "settings": {"train": {"stage2": 1.0, "classifier": 1.0}}, "lr": [0.1, 0.2]}
    rows = [
        {"name": "none", "control": True},
        {"name": "statistics", "stages": [{"method": "statistics"}]},
        {"name": "head", **HEAD, "lr": 0.1, "after_statistics": True},
        {"name": "biases", "stages": [{"method": "statistics"}, {"method": "sparse_update", "settings": {"train": "biases"}}]},
        {"name": "last block", "stages": [last]},
        {"name": "backprop", "method": "backprop", "settings": {"batch_norm": "fold"}, "freeze": ["stage1"]},
    ]
    s = scenario(tmp_path, rows=rows, controls=True)
    assert [dataclasses.replace(row, control=False) for row in s.all_rows()] == [dataclasses.replace(row, control=False) for row in s.rows]


def test_every_recipe_of_a_comparison_is_read(monkeypatch):
    monkeypatch.setenv("LIGHTNING_FWD_DATA", "data")
    recipes = [file for file in (Path(__file__).parents[2] / "recipes").glob("*.yaml") if "\nrows:" in file.read_text()]
    assert len(recipes) > 10 and all(load_scenario(file).rows for file in recipes)


@pytest.mark.parametrize("data", [{"dataset": "digits", "drift": "nois"}, {"dataset": "digitz", "drift": "noise"}])
def test_unknown_drift_or_data_set(tmp_path, data):
    with pytest.raises((ValueError, FileNotFoundError), match="known|nois|digits"):
        compare(scenario(tmp_path, data=data), tmp_path / "out", jobs=1)


def test_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LightningFwdError, match="(?s)cannot write to .*choose another --out"):
        compare(scenario(tmp_path), tmp_path / "file" / "out", jobs=1)


def test_folder_of_another_scenario_is_refused(tmp_path):
    out = tmp_path / "out"
    compare(scenario(tmp_path, rows=TINY["rows"][:1]), out, jobs=1)
    table = (out / "results.csv").read_text()
    with pytest.raises(
        LightningFwdError, match="another scenario\n.*why:  pretrain.lr: 0.05 there, 0.1 here; adapt_samples: 32 there, 16 here\n"
    ):
        compare(scenario(tmp_path, adapt_samples=16, pretrain=TINY["pretrain"] | {"lr": 0.1}), out, jobs=1)
    assert (out / "results.csv").read_text() == table


def test_a_folder_that_was_begun_before_a_setting_existed_is_taken_up(tmp_path):
    s, out = scenario(tmp_path, rows=TINY["rows"][:1]), tmp_path / "out"
    first = compare(s, out, jobs=1)
    older = {k: v for k, v in yaml.safe_load((out / "scenario.yaml").read_text()).items() if k != "weights"}
    (out / "scenario.yaml").write_text(yaml.safe_dump(older))
    assert compare(s, out, jobs=1) == first


def test_trained_weights_are_taken_as_they_are_or_trained_further(tmp_path):
    (none,) = compare(scenario(tmp_path, rows=TINY["rows"][:1], pretrain={"epochs": 4}), tmp_path / "own", jobs=1)
    weights = tmp_path / "own" / "pretrained" / "seed0.safetensors"
    given = {"rows": TINY["rows"][:1], "weights": str(weights), "seeds": [5]}
    unstated = {k: v for k, v in TINY.items() if k != "pretrain"}
    (tmp_path / "taken.yaml").write_text(yaml.safe_dump({**unstated, **given}))
    (taken,) = compare(load_scenario(tmp_path / "taken.yaml"), tmp_path / "taken", jobs=1)
    (further,) = compare(scenario(tmp_path, **given, pretrain={"epochs": 1}), tmp_path / "further", jobs=1)
    assert taken.accuracy_source == none.accuracy_source > 30 and further.accuracy_source != none.accuracy_source
    weights.write_bytes((tmp_path / "further" / "pretrained" / "seed5.safetensors").read_bytes())
    with pytest.raises(LightningFwdError, match="seed5.safetensors holds other weights than .*seed0.safetensors"):
        compare(load_scenario(tmp_path / "taken.yaml"), tmp_path / "taken", jobs=1)


def test_pretrained_weights_of_another_scenario_are_refused_before_there_are_results(tmp_path):
    out = tmp_path / "out"
    compare(scenario(tmp_path, rows=TINY["rows"][:1]), out, jobs=1)
    (out / "results.csv").unlink()
    with pytest.raises(LightningFwdError, match="another scenario"):
        compare(scenario(tmp_path, pretrain={"epochs": 3}), out, jobs=1)


def test_each_seed_draws_its_own_feedback_unless_the_row_says_which(tmp_path):
    row = scenario(tmp_path).rows[2]
    assert [row.build(seed).seed for seed in (0, 1, 2)] == [0, 1, 2]
    assert dataclasses.replace(row, settings={"seed": 7}).build(1).seed == 7
    assert dataclasses.replace(row, method="backprop").build(1) == dataclasses.replace(row, method="backprop").build()


def test_the_momentum_that_trains_is_priced(tmp_path):
    s = scenario(tmp_path)
    plain = dataclasses.replace(s, adapt=dataclasses.replace(s.adapt, momentum=0.0))
    with_state, without = (price(one, s.rows[2]).peak_ram_bytes for one in (s, plain))
    weights = sum(p.numel() for p in build(s.model, **s.model_args).parameters())
    assert 0 < with_state - without <= 4 * weights + 1024


def test_accuracy_counts_every_sample():
    class Parity(torch.nn.Module):
        def forward(self, x):
            return torch.stack([-x[:, 0], x[:, 0]], dim=1)

    x = torch.tensor([[1.0], [-1.0], [1.0]])
    assert run_module.accuracy(Parity(), x, torch.tensor([1, 0, 0]), batch=2) == pytest.approx(200 / 3)


def test_a_step_that_cannot_be_priced_at_this_batch_still_adapts(tmp_path):
    """Hybrid negatives are mixed of two samples, the ledger prices one: the row has figures, no cost, and a note."""
    rows = [{"name": "hybrid", "method": "forward_forward", "settings": {"negatives": "hybrid"}}]
    s = scenario(tmp_path, rows=rows, pretrain={"epochs": 1})
    (result,) = compare(s, tmp_path / "out", jobs=1)
    assert 0 <= result.accuracy_adapted <= 100 and result.steps == 2 and result.macs_per_step == 0
    write_markdown(s, summarise(s, [result]), tmp_path / "summary.md")
    text = (tmp_path / "summary.md").read_text()
    assert "hybrid: no cost for a step on 1 sample(s)" in text and "cost_batch" in text
    assert "one seed" in text and "±" not in text  # of one figure there is no deviation
