"""The project's own source as syntax trees: its modules, the rooms they stand in, and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {"lightning_fwd": ROOT / "lightning_fwd", "lightning_fwd_export": ROOT / "tools" / "lightning_fwd_export"}


@dataclass(frozen=True)
class Import:
    """``from module import name`` (or ``import module``, where name is "") in a module of ours, late ones in functions included."""

    by: Module
    module: str
    name: str
    line: int

    def __str__(self) -> str:
        return f"{self.by.name}:{self.line} imports {self.name or 'all'} of {self.module}"


@dataclass(frozen=True)
class Module:
    """A file of ours. ``name``: dotted, without ``__init__``; of a script in tools, ``tools.<name>``."""

    name: str
    file: Path

    @property
    def tree(self) -> ast.Module:
        return parse(self.file)

    @property
    def room(self) -> str:
        return room_of(self.name)

    def imports(self) -> Iterator[Import]:
        """All but those for the type checker alone."""
        package = self.name if self.file.name == "__init__.py" else self.name.rpartition(".")[0]
        for node in walk_at_run_time(self.tree):
            if isinstance(node, ast.Import):
                yield from (Import(self, alias.name, "", node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
                module = ".".join([*above, *filter(None, [node.module])])
                for alias in node.names:
                    inside = f"{module}.{alias.name}"
                    yield Import(self, *((inside, "") if inside in modules() else (module, alias.name)), node.lineno)


@cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def walk_at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under ``if TYPE_CHECKING:``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from [other, *walk_at_run_time(other)]
        else:
            yield from [child, *walk_at_run_time(child)]


@cache
def modules() -> dict[str, Module]:
    found = {}
    for package, folder in [*PACKAGES.items(), ("tools", ROOT / "tools")]:
        for file in sorted(folder.rglob("*.py")):
            if package == "tools" and PACKAGES["lightning_fwd_export"] in file.parents:
                continue
            parts = file.relative_to(folder).with_suffix("").parts
            name = ".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])
            found[name] = Module(name, file)
    return found


def room_of(module: str) -> str:
    """``graph`` for ``lightning_fwd.graph.blocks``; "" for ``lightning_fwd`` itself; another package is one room under its own name."""
    package, *inside = module.split(".")
    return package if package != "lightning_fwd" else inside[0] if inside else ""


def docstrings(tree: ast.Module) -> set[ast.Constant]:
    """The strings that stand alone as statements: docstrings, and none of the program's values."""
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
