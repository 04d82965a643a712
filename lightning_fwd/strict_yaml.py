"""YAML as its authors mean it: a key given twice is an error, and ``1e-3`` is a number. Nothing in it makes a reader run on or call
anything."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from .errors import LightningFwdError
from .plain_files import read_text

_MOST_NODES = 200_000  #: that aliases (``*name``) may stand for, beside what is written out


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader follows YAML 1.1: the last of two equal keys wins in silence, and ``1e-3``, without a point, is text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":  # "<<": what is merged in may be overwritten
                continue
            name, line = self.construct_object(key), key.start_mark.line + 1
            if name in lines:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {name!r} stands twice, in lines {lines[name]} and {line}; keep one", key.start_mark
                )
            lines[name] = line
        return super().construct_mapping(node, deep)

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            sizes: dict[int, int] = {}
            if _size(node, sizes) > _MOST_NODES + len(sizes):
                raise yaml.YAMLError("its aliases (*name) stand for more than any recipe holds")
        return node


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Nodes below one, those behind aliases counted each time."""
    if id(node) not in sizes:
        sizes[id(node)] = _MOST_NODES**2  # until it is known: a node that holds itself is too large
        below = [n for pair in node.value for n in pair] if isinstance(node, yaml.MappingNode) else node.value
        sizes[id(node)] = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(_size(n, sizes) for n in below))
    return sizes[id(node)]


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789"))


def load_yaml(text: str) -> Any:
    """The content of a YAML document, of plain types only.

    Raises:
        yaml.YAMLError: not YAML, a mapping with a key twice, nested or repeated by aliases without bounds.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark is not None else ""
        raise yaml.YAMLError(f"{where}{error.problem or error.context}") from error
    except yaml.YAMLError:
        raise
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:  # e.g. 2024-99-99, !!int x, !!bool x
        raise yaml.YAMLError(f"a value that is not what it is written as ({type(error).__name__}: {error})") from error


def read_yaml(
    path: str | Path, what: str, mend: str, error: type[LightningFwdError] = LightningFwdError, prepare: Callable[[str], str] = str
) -> Any:
    """The content of a YAML file.

    Args:
        what: what it was to be ("the scenario"). mend: what the user can do. error: class of what is raised.
        prepare: what is done to the text first.

    Raises:
        error: the file is missing, no file, too large, no text or no YAML; names it.
    """
    text = prepare(read_text(path, what, mend, error))
    try:
        return load_yaml(text)
    except yaml.YAMLError as fault:
        raise error(f"cannot read {what} {str(path)!r}", f"it is not YAML: {fault}", mend) from fault
