"""All pages: every command is parsed by the real command line, every link and file resolves, every piece of Python runs."""

import argparse
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from pages import ROOT, Page, pages
from test_readme import YourLightningModule
from torch.utils.data import DataLoader, TensorDataset

import lightning_fwd as lf
from lightning_fwd.compare import load_scenario
from lightning_fwd.cost import load_device
from lightning_fwd.models import MLP
from lightning_fwd.strict_yaml import load_yaml

PAGES = {str(page): page for page in pages()}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STANDS_FOR = {"S": "0", "MODEL": "resnet8", "NAME": "pepita", "FOLDER": "out", "TOPIC": "methods"}
RECIPES = {"fit": "recipes/digits_local_loss.yaml", "export": "recipes/digits_local_loss.yaml", "search": "recipes/search_resnet8.yaml",
           "adapt": "recipes/adapt_resnet8.yaml"}  # fmt: skip
every_page = pytest.mark.parametrize("page", PAGES.values(), ids=str)


def all_commands() -> list[tuple[str, list[str]]]:
    """Each command once, with the page that it stands on."""
    found = {tuple(words): name for name, page in PAGES.items() if name != "CHANGELOG.md" for words in page.commands}
    return [(name, list(words)) for words, name in found.items()]


def named(program: str) -> list:
    """Commands of one program as test parameters, its own name cut off."""
    start = program.split()
    return [
        pytest.param(words[len(start) :], id=f"{page}: {' '.join(words)}"[:120])
        for page, words in all_commands()
        if words[: len(start)] == start or (len(start) == 1 and words[0].startswith(program))
    ]


class Parsed(BaseException):
    """Raised in place of running what was parsed."""


@pytest.fixture
def parse_only(monkeypatch):
    """Commands end when their options are known to be good."""

    def stop(*_args, **_kwargs):
        raise Parsed

    real = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda *args, **kwargs: stop(real(*args, **kwargs)))
    monkeypatch.setattr(LightningCLI, "instantiate_classes", stop)
    monkeypatch.chdir(ROOT)


def filled(words: list[str], command: str) -> list[str]:
    """Capital words and the rest of what stands for something, as somebody would write it."""
    recipe = RECIPES.get(command, "recipes/compare_digits_drift.yaml")
    return [STANDS_FOR.get(word, recipe if word in ("RECIPE", "COPY") else word) for word in words]


@pytest.mark.parametrize("words", named("lightning-fwd"))
def test_every_command_is_parsed_by_the_command_line(words, parse_only):
    if words[:1] in (["export"], ["npu"]) and not find_spec("executorch"):
        pytest.skip("needs the extra [export]")
    module, _, function = PROJECT["scripts"]["lightning-fwd"].partition(":")
    main = getattr(import_module(module), function)
    if not words:  # the program is named, no command
        words = ["--help"]
    elif len(words) == 1:  # named, not spelled out
        words = [*words, "--help"]
    try:
        answer = main(filled(words, words[0]))
    except Parsed:
        return
    except SystemExit as stop:
        answer = 0 if "--help" in words else stop.code
    assert answer == 0, f"lightning-fwd {' '.join(words)}: exit code {answer}"


@pytest.mark.parametrize("words", [p for p in named("python") if p.values[0][0] != "-m"])
def test_every_script_takes_its_options(words, parse_only, monkeypatch):
    script, *options = filled(words, "")
    monkeypatch.setattr(sys, "argv", [script, *options])
    monkeypatch.syspath_prepend(str((ROOT / script).parent))
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / script), run_name="__main__")


@pytest.mark.parametrize("words", named("pytest"))
def test_every_test_named_exists(words):
    files = [word for word in words if word.startswith("tests/")]
    assert files and all((ROOT / file).exists() for file in files)
    if "-k" in words:
        assert words[words.index("-k") + 1] in "".join((ROOT / file).read_text() for file in files)


@pytest.mark.parametrize("words", named("pip install"))
def test_every_extra_named_exists(words):
    extras = {extra for word in words for group in re.findall(r"^\.\[([\w,]+)\]$", word) for extra in group.split(",")}
    assert extras <= PROJECT["optional-dependencies"].keys()


@every_page
def test_every_link_resolves(page):
    for target in page.links:
        path, _, anchor = target.partition("#")
        file = (page.path.parent / path).resolve() if path else page.path
        assert file.is_file(), f"{page}: {target}"
        assert file.is_relative_to(ROOT), f"{page}: {target} leaves the project"
        if anchor:
            assert anchor in Page(file).anchors, f"{page}: {target}; anchors there: {sorted(Page(file).anchors)}"


@every_page
def test_every_file_named_exists(page):
    if str(page) == "CHANGELOG.md":  # tells of what was
        return
    words = {word for text in (*page.spans, *page.blocks("bash"), *page.blocks("yaml")) for word in text.split()}
    for word in words:
        if re.fullmatch(r"(recipes|tools|tests|lightning_fwd|\.github)/[\w./*-]*", word) and "NAME" not in word:
            assert list(ROOT.glob(word.rstrip("/"))), f"{page} names {word}"


@every_page
def test_every_name_of_the_library_exists(page):
    for name in re.findall(r"`lf\.(\w+)", page.text):
        assert hasattr(lf, name), f"{page}: lf.{name}"


def with_python() -> list[Page]:
    return [page for page in PAGES.values() if page.blocks("python")]


@pytest.mark.parametrize("page", with_python(), ids=str)
def test_every_piece_of_python_runs(page, tmp_path, monkeypatch):
    """In order, as if typed in one session; ``x``, ``labels``, ``net``, ``your_data`` and so on are there. C beside it is compiled."""
    x, labels = torch.randn(12, 16), torch.arange(12) % 3
    quick = partial(L.Trainer, max_epochs=1, default_root_dir=tmp_path, logger=False, enable_checkpointing=False, accelerator="cpu")
    monkeypatch.setattr(L, "Trainer", quick)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope = {
        "L": L, "lf": lf, "torch": torch, "YourLightningModule": YourLightningModule, "x": x, "labels": labels, "example_input": x[:2],
        "net": MLP(in_features=16, hidden=(8,), num_classes=3), "your_data": DataLoader(TensorDataset(x, labels), batch_size=4),
    }  # fmt: skip
    for block in page.blocks("python"):
        if "lightning_fwd_export" not in block or find_spec("executorch"):
            exec(compile(block, str(page), "exec"), scope)
    assert isinstance(scope["net"], MLP)
    if "trainer" in scope:
        scope["trainer"].fit(YourLightningModule(), scope["your_data"])
    if (tmp_path / "out" / "c").is_dir() and shutil.which("cc"):
        for block in page.blocks("c"):
            (tmp_path / "page.c").write_text(block)
            others = [f"-I{code}" for code in sorted(tmp_path.glob("*/c")) if code.parent.name != "out"]
            subprocess.run(["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-Iout/c", *others, "-c", "page.c"], check=True)


def test_the_top_page_is_short_and_leads_a_newcomer_to_each_topic_in_one_click():
    top = PAGES["README.md"]
    assert len(top.text.splitlines()) <= 150
    topics = {
        "lightning_fwd/data/README.md": "your-own-data",
        "lightning_fwd/cost/README.md": "a-board-of-your-own",
        "tools/lightning_fwd_export/README.md": "into-your-firmware",
        "lightning_fwd/methods/README.md": "choosing-a-rule",
    }
    linked = {target.partition("#")[0] for target in top.links}
    for page, anchor in topics.items():
        assert page in linked and anchor in PAGES[page].anchors


def test_every_room_of_a_rule_has_a_page_and_every_page_is_reached_from_the_top():
    for name in lf.METHODS:
        assert f"lightning_fwd/methods/{name}/README.md" in PAGES
    reached, todo = set(), [PAGES["README.md"].path]
    while todo:
        path = todo.pop()
        if path.suffix == ".md" and path not in reached:
            reached.add(path)
            todo += [(path.parent / target.partition("#")[0]).resolve() for target in Page(path).links if not target.startswith("#")]
    lonely = [name for name, page in PAGES.items() if page.path not in reached]
    assert not lonely, f"no page leads to {lonely}: add a row to the rooms in lightning_fwd/README.md"


def test_the_matrix_names_each_rule_s_default_batch_norm():
    text = PAGES["lightning_fwd/strategies/README.md"].text
    rows = dict(re.findall(r"^\| [^|]+ \| `(\w+)` \| (?:32|same)[^|]*\| [^|]+ \| ([^|]+) \|", text, re.MULTILINE))
    assert rows.keys() == lf.METHODS.keys()
    for name, modes in rows.items():
        if not lf.METHODS[name].updates_buffers_only:
            assert re.findall(r"\*\*(\w+)\*\*", modes) == [lf.METHODS[name]().batch_norm]


def test_the_recipes_and_boards_spelled_out_are_read(tmp_path):
    """YAML on pages: with rows a comparison, with cycles a device; anything else at least YAML without a key given twice."""
    found = set()
    for page in PAGES.values():
        for place, block in enumerate(page.blocks("yaml")):
            (file := tmp_path / f"{place}.yaml").write_text(block)
            content = load_yaml(block)
            if "rows" in content:
                assert load_scenario(file).all_rows()
                found.add("scenario")
            elif "cycles_per_mac" in content:
                assert load_device(file).name == content["name"]
                found.add("device")
    assert found == {"scenario", "device"}
