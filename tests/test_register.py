"""The strategies register when Lightning is loaded, in whatever order things are imported, and not before."""

import subprocess
import sys

import pytest

USE = "import lightning as L; assert L.Trainer(strategy='direct_feedback', logger=False).strategy.method"


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("import lightning_fwd", marks=pytest.mark.slow),
        pytest.param("import lightning; import lightning_fwd", marks=pytest.mark.slow),
        "import lightning_fwd, importlib.util; importlib.util.find_spec('lightning')",  # only a look whether it is there
    ],
)
def test_a_strategy_is_there_by_name(before):
    done = subprocess.run([sys.executable, "-c", f"{before}; {USE}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_loads_neither_torch_nor_lightning_by_itself():
    code = "import lightning_fwd, sys; assert not {'torch', 'lightning'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
