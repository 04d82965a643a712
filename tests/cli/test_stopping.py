"""A command that is stopped says one line, ends with the shells' status, and leaves no worker process behind."""

import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

import lightning_fwd as lf
from lightning_fwd.cli import main
from lightning_fwd.models.sealed_weights import save_sealed
from lightning_fwd.plain_files import write_whole
from lightning_fwd.workers import Watched

SCENARIO = {
    "data": {"dataset": "digits", "drift": "noise=0.1", "flatten": True},
    "model": "mlp",
    "pretrain": {"epochs": 500},
    "seeds": [0, 1, 2, 3],
}
START = "import sys; sys.argv[0] = 'lightning-fwd'; from lightning_fwd.cli import main; sys.exit(main())"


@pytest.fixture(autouse=True)
def _interruptible():
    """A shell that starts a run in the background has it ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("sign", "status", "said"), [(signal.SIGINT, 130, "interrupted: run again"), (signal.SIGTERM, 143, "terminated: run again")]
)
@pytest.mark.parametrize("command", ["compare", "search"])
def test_a_stopped_command_says_one_line(command, sign, status, said, monkeypatch, tmp_path, capfd):
    (tmp_path / "recipe.yaml").write_text("{}")
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    module = "lightning_fwd.compare" if command == "compare" else "lightning_fwd.search"
    monkeypatch.setattr(
        f"{module}.load_{'scenario' if command == 'compare' else 'search'}", lambda *_: os.kill(os.getpid(), sign) or time.sleep(9)
    )
    assert main([command, "-c", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")]) == status
    assert capfd.readouterr().err.strip() == f"{said} to resume"
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


class Interrupting(torch.nn.Linear):
    """A network that is trained until Ctrl-C."""

    def __init__(self):
        super().__init__(64, 10)

    def forward(self, x):
        if self.training:
            os.kill(os.getpid(), signal.SIGINT)
        return super().forward(x)


def test_a_stopped_fit_is_no_success(capfd):
    quiet = [
        "--trainer.logger=false",
        "--trainer.enable_checkpointing=false",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]
    before = signal.getsignal(signal.SIGINT)
    try:
        assert main(["fit", *quiet, f"--model.model={__name__}.Interrupting", "--data.dataset=digits", "--data.flatten=true"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    said = capfd.readouterr().err
    assert "interrupted: run again to resume, with --ckpt_path CHECKPOINT" in said


def test_a_watched_function_is_the_function_in_any_process_but_joblib_s():
    again = pickle.loads(pickle.dumps(Watched(max)))
    assert again(3, 5) == 5 and again.__name__ == "max"


def processes(group):
    listed = subprocess.run(["ps", "-eo", "pid,pgid,stat"], capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    return [int(line.split()[0]) for line in listed if line.split()[1] == str(group) and "Z" not in line.split()[2]]


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("wait", [0, 15])
def test_no_worker_process_outlives_its_parent(sign, wait, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(SCENARIO))
    command = [sys.executable, "-c", START, "compare", "-c", "recipe.yaml", "--out", "out", "--jobs", "2"]
    run = subprocess.Popen(command, cwd=tmp_path, stderr=(tmp_path / "said").open("w"), stdout=subprocess.DEVNULL, start_new_session=True)
    while len(processes(run.pid)) < 4 and run.poll() is None:
        time.sleep(0.2)
    time.sleep(wait)  # at 0 the workers still import what they need
    if sign == signal.SIGINT:
        os.killpg(run.pid, sign)  # as a terminal does
    else:
        run.send_signal(sign)
    assert run.wait(60) == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[sign]
    end = time.monotonic() + 20
    while processes(run.pid) and time.monotonic() < end:
        time.sleep(0.2)
    assert processes(run.pid) == []
    said = Path(tmp_path / "said").read_text()
    assert sign == signal.SIGKILL or said.strip().splitlines()[-1].endswith("run again to resume")
    assert "Traceback" not in said


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 100 bytes; only in the block, as pytest's own output may go into one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_with_the_file_and_the_old_file_stays(tmp_path):
    (tmp_path / "table.csv").write_text("old")
    with full_disk(), pytest.raises(lf.LightningFwdError, match="(?s)cannot write to .*table.csv.*mend: free space"):
        write_whole(tmp_path / "table.csv", "new" * 1000)
    assert (tmp_path / "table.csv").read_text() == "old"
    with full_disk(), pytest.raises(lf.LightningFwdError, match="(?s)cannot write to .*w.safetensors.*mend: free space"):
        save_sealed({"a": torch.zeros(1000)}, tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_an_error_of_the_disk_that_names_no_file_gets_the_folder(monkeypatch, tmp_path, capfd):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_fwd.compare.load_scenario", full)
    assert main(["compare", "-c", "recipe.yaml", "--out", "some/folder"]) == 2
    assert "No space left on device\n  file: in some/folder\n  mend: free space" in capfd.readouterr().err
