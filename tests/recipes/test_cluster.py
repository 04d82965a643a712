"""Trials of a comparison and a search on a Dask cluster: the files of a local run."""

import csv
import sys

import joblib
import pytest
import yaml

from lightning_fwd import LightningFwdError
from lightning_fwd.cli import main
from lightning_fwd.recipes import on_backend, run_each, worker_count

COMPARISON = {
    "data": {"dataset": "digits", "drift": "contrast=0.3"},
    "model": "small_conv",
    "model_args": {"in_channels": 1, "widths": [8, 8]},
    "pretrain": {"epochs": 2, "batch_size": 64, "lr": 0.05},
    "adapt": {"epochs": 1, "batch_size": 16, "lr": 0.003},
    "adapt_samples": 32,
    "controls": False,
    "seeds": [0, 1],
    "rows": [{"name": "none"}, {"name": "statistics", "method": "statistics"}, {"name": "local_loss", "method": "local_loss"}],
}


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster


def rows_of(folder):
    with (folder / "results.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds_per_step"} for row in csv.DictReader(file)]


@pytest.mark.slow  # half a minute: two worker processes that import torch
def test_two_dask_workers_write_the_results_of_a_local_run(cluster, tmp_path, capsys):
    recipe = tmp_path / "scenario.yaml"
    recipe.write_text(yaml.safe_dump(COMPARISON))
    local, spread = tmp_path / "local", tmp_path / "spread"
    assert main(["compare", "-c", str(recipe), "--out", str(local), "--jobs", "1"]) == 0
    ran = len(cluster.scheduler.tasks), cluster.scheduler.transition_counter
    assert main(["compare", "-c", str(recipe), "--out", str(spread), "--backend", "dask", "--address", cluster.scheduler_address]) == 0
    assert cluster.scheduler.transition_counter > ran[1] + 10  # the trials were its
    assert rows_of(local) == rows_of(spread) and len(rows_of(local)) == 6
    assert (local / "pretrained" / "seed1.safetensors").read_bytes() == (spread / "pretrained" / "seed1.safetensors").read_bytes()


@pytest.mark.slow
def test_a_search_on_dask_finds_what_it_finds_here(cluster, tmp_path, capsys):
    recipe = tmp_path / "search.yaml"
    search = {"data": {"dataset": "digits"}, "model": "small_conv", "model_args": COMPARISON["model_args"], "budget": {"ram": "64KB"},
              "pretrain": COMPARISON["pretrain"], "drifts": ["contrast=0.3"], "samples": 40, "held_out": 60, "epochs": 1,
              "finalists": 1}  # fmt: skip
    recipe.write_text(yaml.safe_dump(search))
    found = {}
    for name, more in (("local", ["--jobs", "1"]), ("spread", ["--backend", "dask", "--address", cluster.scheduler_address])):
        assert main(["search", "-c", str(recipe), "--out", str(tmp_path / name), *more]) == 0, capsys.readouterr()
        found[name] = [(tmp_path / name / file).read_text() for file in ("scheme.yaml", "contributions.csv")]
    assert found["local"] == found["spread"]


@pytest.mark.parametrize(
    ("backend", "address", "said"),
    [
        ("slurm", None, "known are loky, dask, ray"),
        ("loky", "tcp://here:1", "give --backend dask or ray"),
        ("dask", None, "give --address"),
        ("dask", "nonsense://nowhere", "no Dask scheduler at"),
    ],
)
def test_what_cannot_be_reached_is_said(backend, address, said):
    if backend == "dask":
        pytest.importorskip("distributed")
    with pytest.raises(LightningFwdError, match=said), on_backend(backend, address):
        pass


def test_a_backend_that_is_not_installed_is_named(monkeypatch):
    for module, backend in (("distributed", "dask"), ("ray", "ray")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(LightningFwdError, match=f"backend {backend} is not installed"), on_backend(backend, "tcp://h:1"):
            pass


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])  # the latter, as Ray's, hands out nothing before the end
@pytest.mark.parametrize("in_order", [False, True])
def test_every_backend_hands_its_results_out(backend, in_order):
    with joblib.parallel_config(backend, n_jobs=2):
        assert worker_count(None) == 2
        results = list(run_each(2, (joblib.delayed(abs)(-i) for i in range(5)), in_order))
    assert (results if in_order else sorted(results)) == [0, 1, 2, 3, 4]


def test_here_nothing_changes():
    before = worker_count(None)
    with on_backend():
        assert worker_count(None) == before
