"""Rooms import one way, as the docstring of the package says; a rule is known to its own room and to the registry alone."""

import ast
import re
from graphlib import CycleError, TopologicalSorter

import pytest
from source import PACKAGES, Import, modules, room_of

import lightning_fwd
from lightning_fwd.methods import METHODS

WITHOUT_LIGHTNING = {"graph", "passes", "methods", "trace", "cost"}
KNOW_NO_RULE = {"trace", "cost", "adaptation", "strategies"}
RULES = {cls.__module__.split(".")[2]: cls for cls in METHODS.values()}  # room to rule

ROOMS = {room for m in modules().values() if m.name.startswith("lightning_fwd.") and (room := m.room)}
OWN = [i for m in modules().values() for i in m.imports() if i.module.split(".")[0] in PACKAGES]


def levels():
    """Room to its height, from the line of arrows in the package's docstring."""
    (line,) = re.findall(r"^ +errors <-(?:.|\n)+?(?=\n\n)", lightning_fwd.__doc__, re.MULTILINE)
    groups = [[room.strip() for room in group.split(",")] for group in " ".join(line.split()).split("<-")]
    assert len(sum(groups, [])) == len(set(sum(groups, [])))
    return {room: level for level, group in enumerate(groups) for room in group}


def test_every_room_has_its_place_in_the_line():
    assert ROOMS - set(levels()) == set()
    assert {"graph", "cli", "errors", "methods"} <= ROOMS and len(OWN) > 500  # the reading of the source works


def upward(imports):
    """Those by which a room knows a higher one, or one beside it."""
    level = levels()
    between = [i for i in imports if i.by.room != room_of(i.module) and i.by.name.startswith("lightning_fwd.")]
    return [str(i) for i in between if level[i.by.room] <= level.get(room_of(i.module), len(level))]


def circle(imports):
    """Modules that import one another, from one back to itself, or ()."""
    needs = {}
    for i in imports:
        if i.module in modules() and i.module != i.by.name:
            needs.setdefault(i.by.name, set()).add(i.module)
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return error.args[1]
    return ()


def test_no_room_imports_a_higher_one_or_one_beside_it():
    assert upward(OWN) == []


def test_no_module_imports_itself_by_way_of_others():
    """Not late in functions either."""
    assert circle(OWN) == ()


@pytest.mark.parametrize("by, module, allowed", [("graph", "strategies", False), ("compare", "search", False), ("cost", "trace", True)])
def test_a_planted_import_is_found(by, module, allowed):
    planted = Import(next(m for m in modules().values() if m.room == by), f"lightning_fwd.{module}", "", 1)
    assert (upward([planted]) == []) is allowed


def test_a_planted_circle_is_found():
    there = next(i for i in OWN if i.module in modules() and i.by.name.startswith("lightning_fwd.graph"))
    assert circle([*OWN, Import(modules()[there.module], there.by.name, "", 1)])


def test_the_package_imports_no_tool():
    assert [str(i) for i in OWN if i.by.name.split(".")[0] == "lightning_fwd" and i.module.split(".")[0] != "lightning_fwd"] == []


def test_rooms_without_lightning():
    """Neither themselves nor by what they import."""
    reached, before = set(WITHOUT_LIGHTNING), set()
    while reached != before:
        before = set(reached)
        reached |= {room_of(i.module) for i in OWN if i.by.room in reached}
    every = [i for m in modules().values() if m.room in reached for i in m.imports()]
    assert [str(i) for i in every if re.match(r"(pytorch_)?lightning(\.|$)", i.module)] == []


def test_no_rule_s_room_imports_another_s():
    def rule(module):
        parts = module.split(".")
        return parts[2] if parts[:2] == ["lightning_fwd", "methods"] and len(parts) > 2 and parts[2] in RULES else None

    assert len(RULES) == len(METHODS)  # each has a room of its own
    assert [str(i) for i in OWN if rule(i.by.name) and rule(i.module) not in (None, rule(i.by.name))] == []


#: node to the expressions in which a text would be a rule's name: comparisons, lookups, cases, defaults
DECIDING = {
    ast.Compare: lambda n: [n.left, *n.comparators],
    ast.Subscript: lambda n: [n.slice],
    ast.Dict: lambda n: [key for key in n.keys if key],
    ast.MatchValue: lambda n: [n.value],
    ast.arguments: lambda n: [*n.defaults, *(d for d in n.kw_defaults if d)],
    ast.AnnAssign: lambda n: [n.value] if n.value else [],
}


def test_rooms_above_the_rules_know_none_by_name():
    """No import of a rule or its room, no mention of its class, nothing decided by its name."""
    classes, found = {cls.__name__ for cls in RULES.values()}, []
    for module in [m for m in modules().values() if m.room in KNOW_NO_RULE]:
        rooms = {f"lightning_fwd.methods.{rule}" for rule in RULES}
        found += [str(i) for i in module.imports() if i.name in classes or ".".join(i.module.split(".")[:3]) in rooms]
        for node in ast.walk(module.tree):
            if (getattr(node, "id", None) or getattr(node, "attr", None)) in classes:
                found.append(f"{module.name}:{node.lineno}: {ast.unparse(node)}")
            for text in [n for top in DECIDING.get(type(node), lambda n: [])(node) for n in ast.walk(top)]:
                if isinstance(text, ast.Constant) and text.value in METHODS:
                    found.append(f"{module.name}:{text.lineno}: {text.value!r}")
    assert found == []
