"""The firmware guide's ten commands, as they stand there: each does what the page says, and host, board and firmware agree."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT

PAGE = ROOT / "tools" / "lightning_fwd_export" / "README.md"


def commands() -> list[str]:
    section = PAGE.read_text().partition("## Ten commands")[2]
    return re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1].strip().splitlines()


def run(command: str, folder: Path) -> str:
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(shlex.split(command), cwd=folder, env=os.environ | {"PATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.board
def test_from_a_recipe_to_an_image_that_learns(tmp_path, emulator):
    install, packages, *rest = commands()
    assert len(rest) == 8 and install == "pip install -e '.[export]'" and packages.startswith("sudo apt-get install gcc-arm-none-eabi")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    said = []
    for command in rest:
        if command.startswith("cmake") and not shutil.which("cmake"):
            pytest.skip("cmake is not there: the commands before it ran")
        said.append(run(command, tmp_path))
    compared, adapted, exported, ran, *_, sizes, _ = said
    assert "local_loss" in compared
    before, after = map(float, re.search(r"([\d.]+) % before, ([\d.]+) % adapted", adapted).groups())
    assert after > before + 10
    assert f"{before:.1f}" in exported and f"{after:.1f}" in exported
    counts = [int(re.search(rf"{when}: (\d+) of 200 right", ran)[1]) for when in ("before", "after")]
    assert counts == [round(2 * before), round(2 * after)]
    image = (tmp_path / "out" / "digits" / "firmware.bin").stat().st_size
    text, data = map(int, sizes.splitlines()[1].split()[:2])
    assert image == pytest.approx(text + data, rel=0.01)
