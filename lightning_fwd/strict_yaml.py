"""YAML as its authors mean it: a key given twice is an error, and ``1e-3`` is a number."""

from __future__ import annotations

import re
from typing import Any

import yaml


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


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789"))


def load_yaml(text: str) -> Any:
    """The content of a YAML document, of plain types only.

    Raises:
        yaml.YAMLError: not YAML, or a mapping with a key twice.
    """
    return yaml.load(text, _Loader)
