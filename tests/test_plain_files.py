"""Files read within bounds: no pipe, no folder, nothing that grows without end; and written whole."""

import os
import zipfile

import numpy as np
import pytest
import torch

import lightning_fwd as lf
from lightning_fwd.compare import load_scenario
from lightning_fwd.data import load_dataset
from lightning_fwd.models import MLP, load_weights
from lightning_fwd.plain_files import naming, read_text, write_whole
from lightning_fwd.search import load_search
from lightning_fwd.strict_yaml import load_yaml, read_yaml

LEVELS = "\n".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(30))
BOMBS = {
    "aliases": f"a0: &a0 [1]\n{LEVELS}",
    "merges": "m0: &m0 {k: 1}\n" + "\n".join(f"m{i + 1}: &m{i + 1} {{<<: [{', '.join([f'*m{i}'] * 9)}]}}" for i in range(30)),
    "itself": "a: &a [*a]",
    "nested": "[" * 20_000,
    "integer": f"a: {'9' * 5000}",
    "date": "a: 2024-99-99",
    "flag": "a: !!bool maybe",
    "object": "!!python/object/apply:os.getcwd []",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", BOMBS)
def test_hostile_yaml_is_refused_at_once(name, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(BOMBS[name])
    for load in (load_scenario, load_search):
        with pytest.raises(lf.LightningFwdError, match=r"recipe.yaml'\n  why:  it is not YAML: .*\n  mend: give"):
            load(file)


def test_what_yaml_may_repeat():
    assert load_yaml("a: &a {x: 1}\nb: [*a, *a]\nc: {<<: *a}") == {"a": {"x": 1}, "b": [{"x": 1}] * 2, "c": {"x": 1}}


@pytest.mark.timeout(20)
def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"a" * (2 << 20))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, why in (
        ("pipe", "pipe"),
        ("", "a folder"),
        ("none", "no such file"),
        ("large", "more than"),
        ("binary", "decode"),
        ("x" * 300, "long"),
    ):
        with pytest.raises(lf.LightningFwdError, match=f"cannot read the recipe(.|\n)*{why}(.|\n)*mend: do so"):
            read_text(tmp_path / name, "the recipe", "do so")
        with pytest.raises(lf.RewriteError):
            read_yaml(tmp_path / name, "the scheme", "do so", lf.RewriteError)


@pytest.mark.timeout(60)
def test_an_archive_that_unpacks_without_end_is_not_unpacked(tmp_path):
    for name in ("bomb.npz", "bomb.pt"):
        with (
            zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("x_train.npy", "w", force_zip64=True) as file,
        ):
            for _ in range(300):
                file.write(bytes(1 << 20))
    with pytest.raises(lf.LightningFwdError, match="bomb.npz.*would unpack to 314,572,800 bytes"):
        load_dataset(str(tmp_path / "bomb.npz"))
    with pytest.raises(lf.LightningFwdError, match="(?s)bomb.pt.*would unpack to 314,572,800 bytes"):
        load_weights(MLP(8, (4,), 3), tmp_path / "bomb.pt")


def test_a_flipped_bit_in_a_checkpoint_is_told_and_checksums_left_out_are_none(tmp_path):
    net, file = MLP(8, (4,), 3), tmp_path / "w.pt"
    torch.save(net.state_dict(), file)
    data = bytearray(file.read_bytes())
    data[data.index(net.fc1.weight.detach().numpy().tobytes()) + 5] ^= 1
    file.write_bytes(data)
    with pytest.raises(lf.LightningFwdError, match="(?s)w.pt.*its part 'w/data/0' is damaged"):
        load_weights(net, file)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(net.state_dict(), file)
    finally:
        torch.serialization.set_crc32_options(True)
    load_weights(net, file)


def test_errors_of_the_disk_name_the_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(lf.LightningFwdError, match="(?s)cannot write to .*folder.*mend:"):
        write_whole(tmp_path / "folder", "text")
    with pytest.raises(lf.LightningFwdError, match="(?s)cannot write to a/b.*No space left"), naming("a/b"):
        raise OSError(28, "No space left on device")


def test_class_names_of_own_data(tmp_path):
    x, y = np.zeros((4, 8, 8), "u1"), np.array([0, 1, 0, 1])
    for classes in (np.array([["a", "b"]]), np.array(["a", "a"]), np.array([1.5, 2.5])):
        np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y, classes=classes)
        with pytest.raises(lf.LightningFwdError, match="(?s)own.npz: classes is .* all different.*mend"):
            load_dataset(str(tmp_path / "own.npz"))
