"""Import timm and torchvision beside a CPU build of torch.

torchvision's wheels hold operators built for CUDA, which such a torch cannot load: the package then fails on import, where it describes
these operators (``nms`` and others of detection) to torch's dispatcher. Its classification networks, and timm's, use none of them. So the
operators are declared here first, by name and without any code: a network that called one would fail.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import torch

_declared: list[torch.library.Library] = []  # a library's declarations end with it


def declare_torchvision_operators() -> None:
    """Make ``import torchvision`` possible where its compiled operators do not load.

    Raises:
        SystemExit: timm or torchvision is not installed.
    """
    missing = [name for name in ("timm", "torchvision") if find_spec(name) is None]
    if missing:
        raise SystemExit(f"{' and '.join(missing)} not found: pip install --no-deps timm==1.0.31 'torchvision==0.28.*'")
    if _declared or hasattr(torch.ops.torchvision, "nms"):
        return
    spec = find_spec("torchvision")
    assert spec is not None and spec.submodule_search_locations
    described = Path(spec.submodule_search_locations[0], "_meta_registrations.py").read_text()
    library = torch.library.Library(spec.name, "DEF")
    for name in sorted(set(re.findall(r'register_meta\("(\w+)"\)|torchvision::(\w+)', described))):
        library.define(f"{name[0] or name[1]}(Tensor x) -> Tensor")
    _declared.append(library)
