"""A checkpoint named on the command line executes nothing."""

import functools
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import lightning as L
import pytest
import torch

import lightning_fwd as lf
from lightning_fwd.cli import main


class Payload:
    """Unpickled without limits, it makes a file."""

    def __init__(self, made: Path):
        self.made = str(made)

    def __reduce__(self):
        return open, (self.made, "w")


@pytest.fixture
def served(tmp_path):
    """The address of a folder that holds ``hostile.ckpt``, and the paths asked of it."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    torch.save({"state_dict": {}, "payload": Payload(tmp_path / "executed")}, tmp_path / "hostile.ckpt")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_remote_checkpoint_is_refused_before_it_is_asked_for(command, served, tmp_path, capfd):
    address, asked = served
    quiet = ["--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.accelerator=cpu"]
    for path in (f"{address}/hostile.ckpt", f"file://{tmp_path}/hostile.ckpt", "s3://bucket/hostile.ckpt"):
        assert main([command, *quiet, f"--ckpt_path={path}"]) == 2
        assert "download the file first" in capfd.readouterr().err
    assert not asked and not (tmp_path / "executed").exists()


def test_reading_without_limits_is_refused(served, tmp_path, capfd):
    assert main(["fit", "--weights_only=false", f"--ckpt_path={tmp_path}/hostile.ckpt"]) == 2
    assert "--weights_only=false is not taken" in capfd.readouterr().err
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["hostile", "cut", "noise", "empty", "list", "class"])
def test_a_bad_local_checkpoint_is_named_and_executes_nothing(kind, served, tmp_path, capfd):
    file = tmp_path / "hostile.ckpt"
    if kind == "list":
        torch.save([1, 2], file)
    elif kind == "class":
        evil = {"_class_path": "os.system", "command": f"touch {tmp_path}/executed"}
        whole = {"epoch": 0, "global_step": 0, "loops": {}, "callbacks": {}, "optimizer_states": [], "lr_schedulers": []}
        torch.save({"state_dict": {"a": torch.zeros(1)}, "hyper_parameters": evil, **whole}, file)
    elif kind != "hostile":
        file.write_bytes({"cut": file.read_bytes()[:200], "noise": bytes(range(256)), "empty": b""}[kind])
    assert main(["fit", f"--ckpt_path={file}"]) == 2
    said = capfd.readouterr().err
    assert "error" in said and "Traceback" not in said and "weights_only" not in said
    assert str(file) in said and "mend:" in said
    assert not (tmp_path / "executed").exists()


QUIET = [
    "--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false", "--data.dataset=digits", "--data.flatten=true", "--data.train_samples=32",
]  # fmt: skip
SMALL = "--model.model_args={in_features: 64, hidden: [8]}"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A checkpoint of a fit through the API by local losses: nothing in it says which class its model is."""
    file = tmp_path_factory.mktemp("run") / "run.ckpt"
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0)
    trainer = L.Trainer(max_epochs=1, strategy="local_loss", accelerator="cpu", **quiet)
    trainer.fit(lf.Classifier("mlp", {"in_features": 64, "hidden": [8]}), lf.data.DriftDataModule("digits", flatten=True, train_samples=32))
    trainer.save_checkpoint(file)
    trainer.save_checkpoint(file.with_name("weights.ckpt"), weights_only=True)
    return file


@pytest.mark.parametrize(
    ("command", "file", "options", "said"),
    [
        ("test", "run.ckpt", [SMALL], "was written by LocalLoss"),
        ("test", "run.ckpt", [SMALL, "--trainer.strategy=auto"], None),
        ("test", "run.ckpt", [SMALL, "--trainer.strategy=local_loss"], None),
        ("test", "run.ckpt", ["--trainer.strategy=local_loss", SMALL.replace("8", "9")], "does not belong to this model"),
        ("test", "weights.ckpt", [SMALL, "--trainer.strategy=local_loss"], None),
        ("fit", "weights.ckpt", [SMALL, "--trainer.strategy=local_loss"], "it lacks .*optimizer_states"),
        ("fit", "run.ckpt", [SMALL, "--trainer.strategy=pepita"], "resume with the same rule|does not belong"),
    ],
)
def test_a_checkpoint_without_its_recipe_or_strategy(command, file, options, said, written, capfd):
    code = main([command, *QUIET, *options, f"--ckpt_path={written.with_name(file)}"])
    error = capfd.readouterr().err
    assert "Traceback" not in error and code == (0 if said is None else 2), error
    assert said is None or re.search(said, error), error


def test_the_recipe_of_a_fit_is_read_within_bounds(tmp_path, capfd):
    bomb = "a0: &a0 [1]\n" + "\n".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(30))
    for text in (bomb, "model: 1\nmodel: 2", "[1]", "model: ["):
        (tmp_path / "recipe.yaml").write_text(text)
        for option in ([f"--config={tmp_path}/recipe.yaml"], ["-c", f"{tmp_path}/recipe.yaml"], [f"--model={tmp_path}/recipe.yaml"]):
            assert main(["fit", *option]) == 2
            assert "recipe.yaml" in capfd.readouterr().err
