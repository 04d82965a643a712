"""Files that want to be executed: recipes, weights and tables of a stranger's. Each is refused in its own words, and nothing of it runs."""

import os
import pickle

import numpy as np
import pytest
import torch
import yaml

from lightning_fwd import LightningFwdError
from lightning_fwd.cli import main
from lightning_fwd.models import build

DATA = {"dataset": "digits", "drift": "noise=0.1", "flatten": True}
NEEDED = {"adapt": {"stages": ["statistics"]}, "compare": {}, "search": {"drifts": ["noise=0.1"]}}


class Payload:
    """Unpickled, it makes a file."""

    def __reduce__(self):
        return open, ("executed", "w")


def calls(target, **arguments):
    """Commands that come to the network of a recipe, or of an option, that names ``target``."""
    for command, needed in NEEDED.items():
        yield [command, "-c", {"data": DATA, "model": target, "model_args": arguments, **needed}, "--out", "out"]
    yield ["cost", "--model", target, "--model-args", ",".join(f"{k}={v!r}" for k, v in arguments.items()), "--input-shape", "4"]
    yield ["rewrite", "--model", target, "--model-args", ",".join(f"{k}={v!r}" for k, v in arguments.items()), "--input-shape", "4"]
    yield ["export", "-c", {"model": {"init_args": {"model": target, "model_args": arguments}}}, "--out", "out"]


def by_lightning():
    """The same in the recipe of a fit: LightningCLI checks what it makes itself, the network's name is ours to check."""
    for target in ("os.system", "builtins.exec"):
        yield ["fit", "--trainer.logger=false", f"--model.model={target}", "--model.model_args={command: touch executed}"]


def class_paths():
    """Recipes of the exporter that name a class of a wrong kind where it makes data or a rule."""
    good = {"model": "mlp"}
    evil = {"class_path": "os.system", "init_args": {"command": "touch executed"}}
    yield ["export", "-c", {"model": {"init_args": good}, "data": evil}, "--out", "out", "--model", "torch.nn.Flatten"]
    yield ["export", "-c", {"model": {"init_args": good}, "trainer": {"strategy": {"init_args": {"method": evil}}}}, "--out", "out"]
    yield ["fit", "-c", {"data": evil}]
    for command in ("compare", "adapt"):
        for data in (
            {"module": evil, "drift": "noise=0.1"},
            {"module": {"class_path": "lightning.LightningDataModule"}, "target_module": evil},
        ):
            yield [command, "-c", {"data": data, "model": "mlp", **NEEDED[command]}, "--out", "out"]
    yield ["fit", "-c", {"trainer": {"callbacks": [evil]}}]


def tagged():
    """YAML that names a Python object."""
    text = "!!python/object/apply:os.system [touch executed]"
    for command in NEEDED:
        yield [command, "-c", text, "--out", "out"]
    yield ["fit", "-c", f"model: {text}"]
    yield ["export", "-c", f"model: {text}", "--out", "out"]
    yield ["cost", "--model", "mlp", "--device", "FILE.yaml", text]
    yield ["cost", "--model", "mlp", "--method", "sparse_update", "--set", "train=FILE.yaml", text]
    yield ["search", "-c", {"data": DATA, "model": "mlp", "drifts": ["noise=0.1"]}, "--budget", text, "--out", "out"]


def pickled():
    """Weights, data and moments that are, or hold, a pickle."""
    for command, needed in NEEDED.items():
        for ending in ("pt", "ckpt", "safetensors", "npz", "h5"):
            yield [command, "-c", {"data": DATA, "model": "mlp", "weights": f"evil.{ending}", **needed}, "--out", "out"]
    yield ["compare", "-c", {"data": {"dataset": "evil.npz", "drift": "noise=0.1"}, "model": "mlp"}, "--out", "out"]
    yield ["export", "--model", "mlp", "--weights", "evil.pt", "--out", "out"]
    yield ["cost", "--model", "resnet8", "--model-args", "weights=evil.npz"]
    yield ["cost", "--model", "resnet8", "--method", "alignment", "--set", "source=evil.safetensors"]


CASES = [
    *calls("os.system", command="touch executed"),
    *calls("subprocess.call", args=["touch", "executed"]),
    *calls("builtins.exec", source="open('executed', 'w')"),
    *calls("subprocess.Popen", args=["touch", "executed"]),
    *calls("functools.partial", func="os.system"),
    *calls("torch.load", f="evil.pt", weights_only=False),
    *calls("numpy.load", file="evil.npz", allow_pickle=True),
    *by_lightning(),
    *class_paths(),
    *tagged(),
    *pickled(),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with every evil file in it."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "more": Payload()}, "evil.pt")
    torch.save({"state_dict": {}, "hyper_parameters": Payload()}, "evil.ckpt")
    for name in ("evil.safetensors", "evil.h5"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload()))
    np.savez("evil.npz", **{key: np.array([Payload()], dtype=object) for key in ("x_train", "y_train", "x_test", "y_test", "dense/kernel")})
    assert pickle.loads((tmp_path / "evil.h5").read_bytes()) and os.path.exists("executed")  # the payload works
    os.unlink("executed")
    return tmp_path


def run(arguments):
    try:
        return main(arguments)
    except SystemExit as stopped:  # an option, refused by argparse
        return stopped.code


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case))[:90])
def test_nothing_of_a_hostile_file_is_executed(case, here, capfd):
    arguments = list(case)
    text = arguments.pop() if any("FILE.yaml" in str(a) for a in arguments) else next((a for a in arguments if isinstance(a, dict)), None)
    if text is None and "-c" in arguments:
        text = arguments[arguments.index("-c") + 1]
    if text is not None:
        (here / "FILE.yaml").write_text(text if isinstance(text, str) else yaml.safe_dump(text))
    arguments = ["FILE.yaml" if isinstance(a, dict) or a is text else a for a in arguments]
    assert run(arguments) == 2
    said = capfd.readouterr().err
    assert "error" in said and "Traceback" not in said
    assert not (here / "executed").exists()


def make_net(width: int = 3) -> "torch.nn.Module":
    return torch.nn.Linear(width, width)


def make_anything():
    raise AssertionError("was called")


def make_number() -> int:
    raise AssertionError("was called")


def test_a_function_is_called_only_if_it_says_that_it_makes_a_network():
    assert build(f"{__name__}.make_net", width=5).in_features == 5
    for name in ("make_anything", "make_number"):
        with pytest.raises(LightningFwdError, match=f"does not say what it makes(.|\n)*def {name}.* -> torch.nn.Module"):
            build(f"{__name__}.{name}")
