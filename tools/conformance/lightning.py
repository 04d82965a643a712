"""Lightning's own tests, plain and with a rule in the place of the default strategy: what passes plain and does not pass with the rule.

    git clone --branch 2.6.5 https://github.com/Lightning-AI/pytorch-lightning DIR     # the version that is installed, or the next one to
    it python tools/conformance/lightning.py DIR --rules backprop --tests loops core trainer/optimization --out runs/lightning

The tests want the packages that DIR names for them (at least pytest-timeout and psutil). Each run leaves a JUnit file in ``--out``, and is
not repeated if it is there. Differences are counted by the limit that they name; a difference that names none is listed by itself.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:] = [str(_HERE.parent), *(p for p in sys.path if Path(p).resolve() != _HERE)]  # this folder has a lightning.py

import lightning

import lightning_fwd as lf

#: what the strategies' page names as limits, by the words of the error that says so
LIMITS = {
    "several optimizers": ("several optimizers",),
    "one tensor in, logits (B, C) out": (
        r"expected logits \(B, C\)",
        r"takes \d+ inputs",
        "no input tensor in a batch",
        "one tensor in and one tensor out",
        "example input is a",
        r"got samples of shape \(\)",
    ),
    "labels in the batch": ("needs the labels of the batch", "got labels"),
    "no example input": ("no example input to capture",),
    "the network cannot be told": (
        "has no forward, and none of its children",
        "has no parameters yet",
        "no parameters left to train",
        "computed a loss without calling its network",
    ),
    "the loss comes from the logits alone": (
        "does not depend on the logits",
        "otherwise than through the logits",
        "no training forward came before",
        r"loss\.backward\(\) was called",
    ),
    "a loss that is not finite is refused": (r"the loss is (nan|-?inf)", "loss at the logits is not finite"),
    "nothing for the rule to learn": (
        "finds no weight matrix to prune",
        "finds no batch norm",
        "needs a hidden block",
        "needs two classes",
    ),
    "what replaces the network is no subclass of its class": (r"isinstance\(Rewritten",),
    "a rewritten model is saved by its state": ("cannot be pickled by protocol",),
    "capture asks the module for evaluation mode": (r"diff: \{'name': 'train', 'args': \(False,\)\}",),
    "checkpoints hold the rule's own state": (
        r"lm_called == \[\{\"name\": \"on_save_checkpoint\"",
        r"diff: \{'name': 'on_load_checkpoint'",
    ),
    "the test asks for plain training's accuracy": (r"assert 0\.\d+ > 0\.6",),
    "the network ends in a softmax": (r"needs logits, .* ends in",),
    "LBFGS": ("cannot be trained by LBFGS",),
    "the test asks for the plain strategy itself": (
        "SingleDeviceStrategy",
        "ForwardOnlyStrategy object",
        "assert_called",
        "Expected 'backward'",
        r"bwd_mock\.call_count",  # of Strategy.backward, which a rule's strategy replaces
        "has no attribute 'call_count'",  # the same
        "<MagicMock name='backward'",
        r"at mock\.py:\d+",  # Tensor.backward is a mock while the network is captured, and its calls are counted: no rule makes any
    ),
}


@dataclass(frozen=True)
class Outcome:
    """Of one test: passed, failed or skipped, and what it said."""

    kind: str
    said: str


def run(folder: Path, tests: list[str], rule: str | None, report: Path, seconds: int) -> dict[str, Outcome]:
    """Outcomes by test, from the report if it is there."""
    if not report.exists():
        command = [sys.executable, "-m", "pytest", "-p", "conformance.rule_as_default", "-q", "-p", "no:cacheprovider"]
        command += ["--continue-on-collection-errors", f"--junitxml={report}", f"--timeout={seconds}", "-o", "addopts="]
        command += [f"tests_pytorch/{t}" for t in tests]
        paths = [str(_HERE.parent), str(Path(lf.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""}
        environment.pop("LIGHTNING_FWD_RULE", None)
        subprocess.run(command, cwd=folder / "tests", env=environment | ({"LIGHTNING_FWD_RULE": rule} if rule else {}))
    if not report.exists():
        raise SystemExit(f"pytest wrote no report for {rule or 'plain training'}: see above")
    return dict(_outcomes(report))


def _outcomes(report: Path):
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').removeprefix('tests_pytorch.')}::{case.get('name')}"
        failure = next((case.find(kind) for kind in ("failure", "error") if case.find(kind) is not None), None)
        if failure is not None:
            yield name, Outcome("failed", f"{failure.get('message', '')}\n{failure.text or ''}")
        else:
            yield name, Outcome("skipped" if case.find("skipped") is not None else "passed", "")


def limit_of(said: str) -> str | None:
    """Which limit a failure names, by its message (the first line) before its trace."""
    message, _, trace = said.partition("\n")
    for text in (message, trace):
        for name, words in LIMITS.items():
            if any(re.search(word, text) for word in words):
                return name
    return None


def compare(plain: dict[str, Outcome], ours: dict[str, Outcome]) -> tuple[Counter, list[tuple[str, str]]]:
    """Differences by limit, and those that name none with what they said."""
    counts: Counter = Counter()
    rest = []
    for name, outcome in plain.items():
        there = ours.get(name)
        if outcome.kind == "passed" and there is not None and there.kind != "passed":
            limit = limit_of(there.said)
            counts[limit or "none of these"] += 1
            if limit is None:
                rest.append((name, there.said.partition("\n")[0][:200]))
    return counts, rest


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path, metavar="DIR", help="a checkout of Lightning's repository")
    options.add_argument("--rules", nargs="+", default=list(lf.METHODS), choices=list(lf.METHODS))
    options.add_argument("--tests", nargs="+", default=["core", "loops", "callbacks", "checkpointing", "models", "trainer", "utilities"])
    options.add_argument("--out", type=Path, default=Path("runs/lightning"))
    options.add_argument("--timeout", type=int, default=120, help="seconds for one test")
    args = options.parse_args()
    if not (args.folder / "tests" / "tests_pytorch").is_dir():
        raise SystemExit(f"no tests/tests_pytorch in {args.folder}: give a checkout of Lightning's repository")
    version = args.folder / "src" / "version.info"
    print(f"Lightning {lightning.__version__}, tests of {version.read_text().strip() if version.exists() else 'an unknown version'}")
    args.out.mkdir(parents=True, exist_ok=True)
    out = args.out.resolve()
    plain = run(args.folder, args.tests, None, out / "plain.xml", args.timeout)
    print(f"plain: {dict(Counter(o.kind for o in plain.values()))}")
    for rule in args.rules:
        ours = run(args.folder, args.tests, rule, out / f"{rule}.xml", args.timeout)
        counts, rest = compare(plain, ours)
        both = sum(outcome.kind == "passed" and name in ours for name, outcome in plain.items())
        print(f"\n{rule}: {dict(Counter(o.kind for o in ours.values()))}; of {both} that pass plain, {sum(counts.values())} do not")
        if left := sum(name not in ours for name in plain):
            print(f"  {left:4}  not reached: the run was stopped")
        for limit, count in counts.most_common():
            print(f"  {count:4}  {limit}")
        for name, said in rest:
            print(f"        {name}\n            {said}")


if __name__ == "__main__":
    main()
