"""A checkpoint named on the command line executes nothing."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

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
