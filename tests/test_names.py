"""Names that are given once: what is private to a room, the prefix of inserted state, the namespace of our operators."""

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

import lightning as L
import torch
from source import docstrings, modules
from torch import nn

from lightning_fwd.graph.constants import COUNTER, INSERTED, is_inserted

THEIRS = set(dir(nn.Module())) | set(dir(L.Trainer)) | set(dir(L.LightningModule()))  # private names of torch's and Lightning's own
NAMESPACE = "lfwd"


def room(module):
    """As of the imports, but each file or folder of methods (a rule, or what rules share) is one of its own."""
    parts = module.name.split(".")
    return ".".join(parts[1:3]) if parts[:2] == ["lightning_fwd", "methods"] and len(parts) > 2 else module.room


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def defined(tree):
    """Private names that a file gives to its own functions, classes, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in ("self", "cls"):
            yield node.attr
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.slice, ast.Constant):
            yield str(node.slice.value)  # self.__dict__["_name"] = ...


def test_no_private_name_is_imported_from_another_file():
    every = [i for m in modules().values() for i in m.imports() if i.module.split(".")[0].startswith("lightning_fwd")]
    crossing = [i for i in every if any(map(is_private, [i.name, *i.module.split(".")]))]
    assert [str(i) for i in crossing if room(i.by) != room(modules()[i.module])] == []


def test_no_private_attribute_of_another_room_is_used():
    owners = defaultdict(set)
    for module in modules().values():
        for name in filter(is_private, defined(module.tree)):
            owners[name].add(room(module))
    found = []
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in THEIRS and owners[node.attr]:
                torch_s = re.match(r"(torch|aten)\b", ast.unparse(node.value))
                if room(module) not in owners[node.attr] and not torch_s:
                    found.append(f"{module.name}:{node.lineno}: {ast.unparse(node)} of {', '.join(sorted(owners[node.attr]))}")
    assert found == []


def test_the_prefix_of_inserted_state_is_written_once():
    assert INSERTED == "_lfwd" and COUNTER == "_lfwd.counter"  # of every checkpoint: not to be changed
    assert is_inserted("network._lfwd.heads.0.weight") and not is_inserted("network.fc.weight")
    written = []
    for module in modules().values():
        texts = {n for n in ast.walk(module.tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)} - docstrings(module.tree)
        written += [f"{module.name}:{n.lineno}" for n in texts if re.search(rf"\b{INSERTED}\b", n.value)]
    assert [place.partition(":")[0] for place in written] == ["lightning_fwd.graph.constants"], written


def test_all_operators_are_of_one_namespace():
    """Those that are defined in our own source: ``custom_op("lfwd::name")``, ``Library("lfwd", ...)``."""
    found = []
    for module in modules().values():
        for node in ast.walk(module.tree):
            called = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
            if called in ("custom_op", "Library", "register_fake") and node.args:
                first = node.args[0]
                text = first.values[0] if isinstance(first, ast.JoinedStr) else first
                if isinstance(text, ast.Constant):
                    found.append(text.value.partition("::")[0])
    assert len(found) > 5 and set(found) == {NAMESPACE}
    import lightning_fwd.methods  # noqa: F401  (defines them)

    ours = {name.partition("::")[0] for name in torch._C._dispatch_get_all_op_names()}
    assert NAMESPACE in ours and "lightning_fwd" not in ours


def test_files_of_tests_have_names_of_their_own():
    """pytest imports them by their file's name alone."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
