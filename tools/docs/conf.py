"""The site: every README.md of the repository as a page, those of Python rooms with the API reference of what the room defines.

Pages are found by glob and read where they stand, so a new room is on the site without an edit here. tools/docs.sh builds it.
"""

from __future__ import annotations

import tomllib
from importlib import import_module
from inspect import isclass, isfunction
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
project = "lightning_fwd"
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
author = copyright = "the lightning_fwd authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
root_doc = "README"
include_patterns = ["*.md", ".github/*.md", *(f"{room}/**README.md" for room in ("lightning_fwd", "recipes", "tools", "tests"))]
exclude_patterns = ["build", "runs", "out", ".venv", ".git", "**/__pycache__", "**/.*_cache"]
default_role = "code"
suppress_warnings = ["misc.highlighting_failure"]  # a shell line that ends in a comment with an apostrophe is still a shell line
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
maximum_signature_line_length = 100
python_display_short_literal_types = True
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = "lightning_fwd"
html_static_path = [str(Path(__file__).parent / "static")]
html_css_files = ["pages.css"]
html_show_sphinx = False
html_copy_source = False

_FIRST = (  # of each group; the others follow by name
    "lightning_fwd/README", "lightning_fwd/methods/README", "lightning_fwd/strategies/README",
    "recipes/README", "tools/lightning_fwd_export/README", "tools/README",
)  # fmt: skip
_PACKAGES = {"tools/lightning_fwd_export": "lightning_fwd_export"}  # folders whose package has another name than their path


def package_of(docname: str) -> str | None:
    """The Python package that a page stands in."""
    folder = PurePosixPath(docname).parent.as_posix()
    for start, name in _PACKAGES.items():
        if folder == start or folder.startswith(f"{start}/"):
            return name + folder[len(start) :].replace("/", ".")
    return folder.replace("/", ".") if folder.startswith("lightning_fwd") else None


def reference(docname: str, packages: set[str]) -> str:
    """Directives for the public names of a page's package, each object on the page of the innermost room that defines it."""
    package = package_of(docname)
    if package is None:
        return ""
    module, deeper = import_module(package), {p for p in packages if p.startswith(f"{package}.")}
    entries = []
    for name in getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]):
        thing = getattr(module, name)
        home = f"{getattr(thing, '__module__', '')}."
        if home.startswith(f"{package}.") and not any(home.startswith(f"{p}.") for p in deeper) and (isclass(thing) or isfunction(thing)):
            kind = "autoclass" if isclass(thing) else "autofunction"
            members = "   :members:\n" if isclass(thing) else ""
            entries.append(f".. {kind}:: {package}.{name}\n{members}")
    return "\n\n## API\n\n```{eval-rst}\n" + "\n".join(entries) + "\n```\n" if entries else ""


def contents(docnames: set[str]) -> str:
    """The table of contents beside every page: rooms, rules, the rest."""
    rules = sorted(name for name in docnames if name.startswith("lightning_fwd/methods/") and name.count("/") > 2)
    rooms = sorted(name for name in docnames if name.startswith("lightning_fwd/") and name not in rules)
    rest = sorted(docnames - {*rules, *rooms, root_doc})
    groups = {"Rooms": rooms, "Learning rules": rules, "Around": rest}
    order = {name: place for place, name in enumerate(_FIRST)}
    trees = [
        f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n"
        + "\n".join(f"/{name}" for name in sorted(names, key=lambda name: (order.get(name, 99), name)))
        + "\n```\n"
        for caption, names in groups.items()
    ]
    return "\n\n" + "\n".join(trees)


def complete(app, docname: str, source: list[str]) -> None:
    """Add to a page what its reader on the site needs beside its text."""
    packages = {package for name in app.env.found_docs if (package := package_of(name))}
    source[0] += reference(docname, packages)
    if docname == root_doc:
        source[0] += contents(set(app.env.found_docs))


def start_page(app, exception) -> None:
    """index.html leads to the README's page."""
    if exception is None and app.builder.format == "html":
        page = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=README.html"><title>lightning_fwd</title>\n'
        (Path(app.outdir) / "index.html").write_text(page)


def setup(app) -> dict[str, bool]:
    app.connect("source-read", complete)
    app.connect("build-finished", start_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
