"""The budget search: exact against brute force, seeded, resumable, and never over its budget."""

from __future__ import annotations

import contextlib
import itertools
import random

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import lightning_fwd as lf
from lightning_fwd.cli import main
from lightning_fwd.cost import step_cost
from lightning_fwd.data import DriftDataModule, load_dataset
from lightning_fwd.models import SmallConv
from lightning_fwd.recipes import data_module
from lightning_fwd.recipes.start import pretrain
from lightning_fwd.search import (
    Budget,
    Prices,
    SchemeSearch,
    Space,
    best,
    evolve,
    load_search,
    parse_budget,
    random_genome,
    search,
)
from lightning_fwd.search.kept import measurement
from lightning_fwd.search.run import START, Measured, _samples
from lightning_fwd.search.space import within


class Additive(Prices):
    """Prices that are sums and a largest part, so that brute force is possible."""

    def __init__(self, space: Space, ram: list[list[int]], peaks: list[int] | None = None):
        self._space, self._known, self._file, self._fitted = space, {}, None, 0
        self.ram, self.peaks = ram, peaks or [0] * len(ram)

    def _ask(self, genome):
        peak = max((p for p, g in zip(self.peaks, genome, strict=True) if g), default=0)
        return sum(costs[g] for costs, g in zip(self.ram, genome, strict=True)) + peak, 0


UNITS = (("a", "a_bn"), ("b",), ("c",), ("head",))


def case(seed: int):
    draw = random.Random(seed)
    space = Space(UNITS, (0.5, 1.0))
    options = [list(range(5)), *[[0, 1, 2]] * 4]
    ram = [[0, *itertools.accumulate(draw.randint(1, 9) for _ in o[1:])] for o in options]
    gain = [[0.0, *(draw.uniform(-1, 3) for _ in o[1:])] for o in options]
    return space, options, Additive(space, ram), lambda g: sum(v[x] for v, x in zip(gain, g, strict=True))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(10, 40))
def test_exact_search_is_brute_force(seed, ram):
    space, options, prices, value = case(seed)
    (found,) = best(space, value, options, prices, Budget(ram))
    wanted = max((g for g in itertools.product(*options) if any(g) and prices.of(g)[0] <= ram), key=value)
    assert value(found) == pytest.approx(value(wanted)) and prices.of(found)[0] <= ram


def test_evolution_comes_near_the_optimum_and_is_seeded():
    for seed in range(5):
        space, options, prices, value = case(seed)
        budget = Budget(25)
        first, again = (evolve(value, options, lambda g: prices.fit(g, budget), seed=3) for _ in range(2))  # noqa: B023
        (exact,) = best(space, value, options, prices, budget)
        assert first == again and all(prices.fit(g, budget) for g in first)
        assert value(first[0]) >= 0.95 * value(exact)


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=() if seed == 1 else pytest.mark.slow) for seed in range(4)])
def test_beyond_small_sets_few_prices_lead_near_the_optimum(seed, monkeypatch):
    """5,103 sparse updates, evolved as if they were too many; the reference looks at all of them."""
    draw = random.Random(seed)
    space = Space(tuple((f"u{i}",) for i in range(6)), (0.5, 1.0))
    options = [list(range(7)), *[[0, 1, 2]] * 6]
    ram = [[0, *itertools.accumulate(draw.randint(1, 9) for _ in o[1:])] for o in options]
    gain = [[0.0, *itertools.accumulate(draw.uniform(0, 2) for _ in o[1:])] for o in options]
    prices = Additive(space, ram, [0, *(draw.randint(1, 12) for _ in space.units)])
    value, budget = lambda g: sum(v[x] for v, x in zip(gain, g, strict=True)), Budget(40)
    (exact,) = best(space, value, options, Additive(space, ram, prices.peaks), budget)
    monkeypatch.setattr("lightning_fwd.search.choose.EXACT", 0)
    found = best(space, value, options, prices, budget, seed=1, count=3)
    assert found and all(budget.allows(*prices.of(g)) for g in found)
    assert value(found[0]) >= 0.9 * value(exact) and len(prices) < 80


def test_random_genomes_fit_and_use_the_budget():
    space, options, prices, _ = case(0)
    budget = Budget(25)
    drawn = {random_genome(space, prices, budget, seed) for seed in range(10)}
    assert len(drawn) > 5 and all(prices.fit(g, budget) for g in drawn)
    for genome in drawn:
        grown = [(*genome[:i], g + 1, *genome[i + 1 :]) for i, g in enumerate(genome) if g < space.everything[i]]
        assert not any(budget.allows(*prices.of(g)) for g in grown)


@pytest.fixture
def small():
    net, x = SmallConv(1, (6, 8), 10), torch.zeros(2, 1, 8, 8)
    return net, x, Space.of(net, x, (0.5, 1.0))


def test_prices_are_the_ledgers_and_are_asked_for_rarely(small, tmp_path):
    net, x, space = small
    prices = Prices(net, x, space, "fp32", 0.0, tmp_path / "prices.json")
    genome = space.everything
    assert prices.of(genome)[0] == step_cost(net, (x[:1], torch.zeros(1, dtype=torch.int64)), method=space.method(genome)).peak_ram_bytes
    budget = Budget(prices.of(genome)[0])
    assert all(prices.fit(space.single(u, 1), budget) for u in range(len(space.units))) and len(prices) == 1
    assert len(Prices(net, x, space, "fp32", 0.0, tmp_path / "prices.json")) == 1
    assert within(space.single(0, 1), space.everything) and not within(space.everything, space.single(0, 1))


def test_what_trains_more_costs_more(small):
    net, x, space = small
    prices = Prices(net, x, space, "int8", 0.0)
    chain = [space.bias_only(1), (3, 0, 0, 1), (3, 0, 1, 1), (3, 0, 2, 1), (3, 0, 2, 2), space.everything]
    costs = [prices.of(g) for g in chain]
    assert [c[0] for c in costs] == sorted(c[0] for c in costs) and [c[1] for c in costs] == sorted(c[1] for c in costs)


# ---- budgets


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"ram": "64KB"}, Budget(64_000)),
        ({"ram": "64 KiB", "macs_per_step": "1.2x_inference"}, Budget(65_536, 1200)),
        ({"ram": 1000, "macs_per_step": "2M"}, Budget(1000, 2_000_000)),
        ({"ram": "1.5x_inference"}, Budget(150)),
        ("stm32f746", Budget(327_680)),
    ],
)
def test_budgets_as_people_write_them(spec, expected):
    assert parse_budget(spec, inference_macs=1000, inference_ram=100) == expected


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "budget {}"), ({"ram": "64 parsecs"}, "64 parsecs"), ({"flash": "1MB"}, "flash"), ({"ram": -1}, "-1"),
        ("no_such_board", "no_such_board"), ({"ram": "1.2.3KB"}, "1.2.3KB"), (5, "5"), ("64KB", "{ram: 64KB"),
        ({"macs_per_step": "64KB"}, "macs_per_step: '64KB'"),
        ({"ram": "20G"}, "20G"), ({"ram": 0.5}, "0.5"), ({"ram": float("inf")}, "inf"), ({"ram": None}, "None"),
        ({"ram": True}, "True"), ({"ram": "0.001x_inference"}, "0.001x"),
    ],
)  # fmt: skip
def test_bad_budgets_are_refused(spec, said):
    with pytest.raises(lf.LightningFwdError) as raised:
        parse_budget(spec, 1000, 100)
    assert said in str(raised.value)


# ---- the whole search, on handwritten digits


SPEC = dict(
    data={"dataset": "digits"}, drifts=["contrast=0.3"], model="small_conv", model_args={"in_channels": 1, "widths": [6, 8]},
    budget={"ram": "3x_inference"}, width="fp32", samples=64, held_out=100, epochs=2, lr=0.03, fractions=[0.5, 1.0], finalists=2,
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def trained(tmp_path_factory):
    """All searches below start from weights that know the digits."""
    file = tmp_path_factory.mktemp("trained") / "net.safetensors"
    pretrain(SchemeSearch(**SPEC, pretrain={"epochs": 5}), 0, DriftDataModule("digits", batch_size=32), file)
    SPEC["weights"] = str(file)


def begun(folder):
    """A folder as a search leaves it before it measures."""
    pretrain(SchemeSearch(**SPEC), 0, DriftDataModule("digits"), folder / START)
    return folder


def test_a_search_writes_a_scheme_that_keeps_the_budget_and_resumes(tmp_path, monkeypatch):
    spec = SchemeSearch(**SPEC)
    found = search(spec, tmp_path / "run", jobs=1)
    assert found.ram_bytes <= found.budget.ram_bytes and found.accuracy >= found.unadapted - 5
    net, x = SmallConv(1, (6, 8), 10), torch.zeros(1, 1, 8, 8)
    method = lf.SparseUpdate(train=str(tmp_path / "run" / "scheme.yaml"))
    priced = step_cost(net, (x, torch.zeros(1, dtype=torch.int64)), method=method, momentum=spec.momentum)
    assert priced.peak_ram_bytes == found.ram_bytes
    about = yaml.safe_load((tmp_path / "run" / "scheme.yaml").read_text())["found"]
    assert about["training"] == {"lr": spec.lr, "epochs": spec.epochs, "batch_size": spec.batch_size, "momentum": spec.momentum}

    monkeypatch.setattr("lightning_fwd.search.run._measure", lambda *_: pytest.fail("measured again"))
    assert search(spec, tmp_path / "run", jobs=1) == found
    with pytest.raises(
        lf.LightningFwdError, match="no sparse update keeps.*100 B.*\n.*the least is [0-9,]+ B RAM and [0-9,]+ MAC per step .biases"
    ):
        search(SchemeSearch(**{**SPEC, "budget": {"ram": "100B"}}), tmp_path / "run", jobs=1)
    with pytest.raises(lf.LightningFwdError, match="budget of 1,000 MAC per step"):
        search(SchemeSearch(**{**SPEC, "budget": {"macs_per_step": 1000}}), tmp_path / "run", jobs=1)
    with pytest.raises(lf.LightningFwdError, match="another search\n.*why:  lr: 0.03 there, 0.1 here"):
        search(SchemeSearch(**{**SPEC, "lr": 0.1}), tmp_path / "run", jobs=1)


@pytest.mark.slow
def test_another_budget_searches_again_from_the_same_measurements_and_random_schemes_are_judged_beside(tmp_path):
    large, out = search(SchemeSearch(**SPEC), tmp_path, jobs=1), tmp_path
    lines = (out / "contributions.csv").read_text().splitlines()
    tight = {**SPEC, "budget": {"ram": large.ram_bytes - 1, "macs_per_step": "2.5x_inference"}}
    small = search(SchemeSearch(**tight), out, jobs=1, controls=3)
    assert small.ram_bytes < large.ram_bytes and small.macs <= small.budget.macs
    assert (out / "contributions.csv").read_text().splitlines()[: len(lines)] == lines
    assert len(small.controls) == 3 and all(0 <= a <= 100 for a in (small.judged, *small.controls))
    found = yaml.safe_load((out / "scheme.yaml").read_text())["found"]
    assert found["ram_bytes"] == small.ram_bytes and len(found["controls"]) == 3


def test_prices_of_another_ledger_are_asked_for_again(small, tmp_path):
    net, x, space = small
    file = tmp_path / "prices.json"
    prices = Prices(net, x, space, "fp32", 0.0, file)
    prices.of(space.everything), prices.of(space.bias_only(1))
    true = file.read_text()
    assert len(Prices(net, x, space, "fp32", 0.0, file)) == 2
    file.write_text(true.replace(str(prices.of(space.everything)[0]), "7"))
    assert len(Prices(net, x, space, "fp32", 0.0, file)) == 0


def test_a_search_in_which_nothing_helps_says_so(small):
    space, prices = small[2], Prices(*small, "fp32", 0.0)
    with pytest.raises(lf.LightningFwdError, match="wins back"):
        best(space, sum, [[0]] * 4, prices, Budget(1))


def test_measurements_survive_an_interruption(tmp_path, small):
    space = small[2]
    spec, file = SchemeSearch(**SPEC), begun(tmp_path) / "contributions.csv"
    first = Measured(spec, space, file, 1, None).of([space.nothing])
    other = 100 - first[space.nothing]
    file.write_text(measurement(space.nothing, spec.drifts[0], other))
    assert Measured(spec, space, file, 1, None).of([space.nothing]) == {space.nothing: other}


def test_an_unfinished_line_is_measured_again_and_a_damaged_one_named(tmp_path, small):
    space, file = small[2], begun(tmp_path) / "contributions.csv"
    file.write_text("0 0 0 0,contrast=0.3,12.5\n1 0 0 0,contrast=0.3,7")  # of 71.2
    measured = Measured(SchemeSearch(**SPEC), space, file, 1, None)
    assert measured.of([space.nothing]) == {space.nothing: 12.5} and measured.of([space.bias_only(1)])[space.bias_only(1)] > 10
    assert len(file.read_text().splitlines()) == 2
    line = measurement(space.nothing, "contrast=0.3", 12.5)
    for damaged, number in (
        ("0 0 0 0,contrast=0.3\n", 1), (line + line, 2), (line.replace("12.5", "13.5"), 1), ("0 0 0 0,contrast=0.3,112.5\n", 1),
        ("0 0 0 9,contrast=0.3,12.5\n", 1), ("0 0 0 0,noise=0.3,12.5\n", 1), (line + "1 0 0 0,contrast=0.3,7\n", 2), ("\n" + line, 1),
    ):  # fmt: skip
        file.write_text(damaged)
        with pytest.raises(lf.LightningFwdError, match=f"contributions.csv, line {number}"):
            Measured(SchemeSearch(**SPEC), space, file, 1, None)


def test_random_schemes_are_judged_on_samples_that_had_no_part_in_the_search():
    spec = SchemeSearch(**SPEC)
    searched, judged = (_samples(spec, "contrast=0.3", judging) for judging in (False, True))
    rows = [{x.numpy().tobytes() for part in parts for x in part[0]} for parts in (searched, judged)]
    assert not rows[0] & rows[1]
    for (x, y), (other_x, other_y) in zip(searched, judged, strict=True):
        assert len(x) == len(other_x) == len(y) == len(other_y)
    assert (searched[0][1].bincount() - judged[0][1].bincount()).abs().max() <= 1  # class shares kept
    with pytest.raises(lf.LightningFwdError, match="lower samples"):
        _samples(SchemeSearch(**{**SPEC, "samples": 700}), "contrast=0.3", judging=True)


def test_an_impossible_budget_is_told_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_fwd.search.run._measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(lf.LightningFwdError, match="the budget of 10 B RAM"):
        search(SchemeSearch(**{**SPEC, "budget": {"ram": 10}}), tmp_path, jobs=1)


def test_a_budget_with_two_sides_names_the_least_of_each():
    space = Space(UNITS, (1.0,))

    class Opposed(Additive):
        def _ask(self, genome):
            return (10, 50) if genome[0] else (50, 10)

    with pytest.raises(
        lf.LightningFwdError, match=r"10 B RAM and 50 MAC per step \(biases of head\), or 50 B RAM and 10 MAC per step \(1 of a\)"
    ):
        best(space, sum, space.options, Opposed(space, []), Budget(20, 20))


@pytest.mark.parametrize("seed", range(3))
def test_where_one_update_fits_it_is_found_though_its_price_looks_too_high(seed, monkeypatch):
    """What evolution expects of prices may be wrong everywhere; the cheapest updates, whose prices are known, are left."""
    space, options, prices, value = case(seed)
    budget = Budget(min(prices.of(space.single_step(i, 1))[0] for i in range(5)))
    monkeypatch.setattr("lightning_fwd.search.choose.EXACT", 0)
    monkeypatch.setattr(prices, "likely_fit", lambda *_: False)
    (found,) = best(space, lambda g: 1.0, options, prices, budget)
    drawn = random_genome(space, prices, budget, seed)
    assert any(drawn) and budget.allows(*prices.of(found)) and budget.allows(*prices.of(drawn))


@pytest.mark.parametrize("key", ["drifts", "samples", "epochs", "fractions", "lr"])
def test_searches_that_could_measure_nothing_are_refused(key):
    with pytest.raises(lf.LightningFwdError, match=key):
        SchemeSearch(**{**SPEC, key: [] if isinstance(SPEC[key], list) else 0})


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("", "{ram: 64KB"),
        ("{ram: 64KB", "{ram: 64KB}"),
        ("64KB", "{ram: 64KB"),
        ("no_such_board", "no_such_board"),
        ("{ram: 64 lightyears}", "64KB"),
    ],
)
def test_a_bad_budget_on_the_command_line(budget, said, tmp_path, capfd):
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(SPEC))
    with contextlib.suppress(SystemExit):
        assert main(["search", "-c", str(tmp_path / "search.yaml"), "--out", str(tmp_path / "out"), "--budget", budget]) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": None}, r"small_conv is right on 1... % .*\n.*without trained weights(.|\n)*weights: FILE"),
        ({"weights": None, "pretrain": {"epochs": 1, "lr": 1e-9}}, "pretraining taught it next to nothing"),
        ({"weights": None, "pretrain": {"epoch": 1}}, "pretrain: unknown epoch"),
        ({"model_args": {"in_channels": 1, "widths": [6, 8], "classes": 3}}, "'classes'(.|\\n)*its arguments: .*num_classes"),
        ({"model_args": {"in_channels": 1, "widths": [6, 6]}}, "has shape"),
        ({"drifts": ["noise", "blur=9"]}, "blur=9: too large"),
        ({"samples": 5000}, "^samples must be at most 1294"),
        ({"data": {"dataset": "digits", "train_samples": 60}}, "train_samples=60\n.*the key samples"),
        ({"data": {"dataset": "digits", "drift": "noise"}}, "drift='noise'\n.*the key drifts"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_measured(change, said, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_fwd.search.run._measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(ValueError, match=said):
        search(SchemeSearch(**{**SPEC, **change}), tmp_path / "out", jobs=1)
    assert not (tmp_path / "out" / START).exists()


def test_a_search_may_pretrain_and_starts_each_training_there(tmp_path, monkeypatch):
    class Started(Exception):
        pass

    def measure(spec, space, start, *_):
        assert start == tmp_path / START and start.exists()
        raise Started

    monkeypatch.setattr("lightning_fwd.search.run._measure", measure)
    for epochs, expected, said in ((5, Started, None), (6, lf.LightningFwdError, "pretrain.epochs: 5 there, 6 here")):
        with pytest.raises(expected, match=said):
            search(SchemeSearch(**{**SPEC, "weights": None, "pretrain": {"epochs": epochs}}), tmp_path, jobs=1)


def test_a_recorded_target_takes_the_place_of_simulated_drifts(tmp_path):
    digits = load_dataset("digits")
    arrays = {name: getattr(digits, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    top = arrays["x_train"].max()
    np.savez(tmp_path / "recorded.npz", **arrays | {"x_train": top - arrays["x_train"], "x_test": top - arrays["x_test"]})
    spec = SchemeSearch(**{**SPEC, "drifts": [], "data": {**SPEC["data"], "target_dataset": str(tmp_path / "recorded.npz")}})
    (drift,) = spec.drifts
    (x, y), _ = _samples(spec, drift, judging=False)
    plain, labels = data_module(spec.data, view="target", train_samples=spec.samples, seed=spec.seed).tensors("train")
    assert torch.equal(x, plain) and torch.equal(y, labels) and x.mean() > 0.5  # ink and paper exchanged
    with pytest.raises(lf.LightningFwdError, match="drifts=(.|\n)*target_dataset in the data"):
        SchemeSearch(**{**SPEC, "drifts": []})


def test_a_bad_recipe_names_its_keys(tmp_path):
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump({"data": {}, "drift": []}))
    with pytest.raises(lf.LightningFwdError, match="drifts"):
        load_search(file)
