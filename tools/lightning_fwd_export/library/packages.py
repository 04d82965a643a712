"""A library's C in the layouts of other build systems: Arduino, Zephyr, CMSIS-Pack."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from ..errors import ExportError

_FLAGS = "-fno-math-errno -fno-strict-aliasing -ffp-contract=fast"  # as templates/Makefile, which says why
_SAID = "On-device learning: forward-only and sparse rules, exported by lightning_fwd"


def write_package(
    kind: str, code: Path, folder: Path, name: str = "lfwd", version: str = "1.0.0", url: str = "https://example.com/"
) -> None:
    """Write a package around generated C; a package of before in the folder is replaced.

    Args:
        kind: one of :data:`PACKAGES`. code: the folder ``c`` of an export. folder: of the package.
        name: of the library, letters and digits. version: as semantic versioning has it.
        url: where it is published; the formats ask for one.

    Raises:
        ExportError: an unknown kind, or a folder that holds something else.
    """
    if kind not in PACKAGES:
        raise ExportError(f"no package of kind {kind!r}", "", f"there are: {', '.join(PACKAGES)}")
    mark = folder / PACKAGES[kind][0]
    if folder.exists() and any(folder.iterdir()) and not mark.exists() and not list(folder.glob("*.pdsc")):
        raise ExportError(f"{folder} holds something else", f"there is no {PACKAGES[kind][0]} of a package before", "choose another folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    PACKAGES[kind][1](code, folder, name, version, url)


def _copy(code: Path, folder: Path) -> list[str]:
    """Sources and headers, kernels beside the rest; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted([*code.glob("*.[ch]"), *(code / "kernels").glob("*.[ch]")], key=lambda file: file.name)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return [file.name for file in files]


def _arduino(code: Path, folder: Path, name: str, version: str, url: str) -> None:
    """Arduino library specification, layout 1.5: everything under ``src`` is compiled, ``src`` is the include path."""
    headers = [file for file in _copy(code, folder / "src") if file.endswith(("_adapt.h", "_model.h", "_store.h"))]
    properties = {
        "name": name,
        "version": version,
        "author": "lightning_fwd",
        "maintainer": "lightning_fwd",
        "sentence": _SAID,
        "paragraph": "Build flags that the results were checked with: " + _FLAGS,
        "category": "Data Processing",
        "url": url,
        "architectures": "*",
        "includes": ",".join(headers),
    }
    (folder / "library.properties").write_text("".join(f"{key}={value}\n" for key, value in properties.items()))


def _zephyr(code: Path, folder: Path, name: str, version: str, url: str) -> None:
    """A Zephyr module: ``CONFIG_NAME=y`` builds it as a library of its own."""
    sources = [file for file in _copy(code, folder / "src") if file.endswith(".c")]
    symbol = name.upper()
    (folder / "zephyr").mkdir()
    (folder / "zephyr" / "module.yml").write_text(f"name: {name}\nbuild:\n  cmake: zephyr\n  kconfig: zephyr/Kconfig\n")
    help_text = f"\t  {_SAID}. Version {version}, {url}\n"
    (folder / "zephyr" / "Kconfig").write_text(f'config {symbol}\n\tbool "{name}: learning on the device"\n\thelp\n{help_text}')
    lines = [
        f"if(CONFIG_{symbol})",
        f"  zephyr_library_named({name})",
        "  zephyr_include_directories(../src)",
        f"  zephyr_library_compile_options({_FLAGS})",
        "  zephyr_library_sources(",
        *(f"    ../src/{file}" for file in sources),
        "  )",
        "endif()",
        "",
    ]
    (folder / "zephyr" / "CMakeLists.txt").write_text("\n".join(lines))


def _cmsis(code: Path, folder: Path, name: str, version: str, url: str) -> None:
    """A CMSIS-Pack's content with its description ``lightning_fwd.NAME.pdsc`` (schema 1.7.2)."""
    files = [
        f'        <file category="{"header" if file.endswith(".h") else "sourceC"}" name={quoteattr(f"src/{file}")}/>'
        for file in _copy(code, folder / "src")
    ]
    said = f'Cclass="Machine Learning" Cgroup="On-device learning" Csub={quoteattr(name)} Cversion={quoteattr(version)}'
    text = f"""<?xml version="1.0" encoding="UTF-8"?>
<package schemaVersion="1.7.2" xmlns:xs="http://www.w3.org/2001/XMLSchema-instance" xs:noNamespaceSchemaLocation="PACK.xsd">
  <vendor>lightning_fwd</vendor>
  <name>{escape(name)}</name>
  <description>{escape(_SAID)}</description>
  <url>{escape(url)}</url>
  <releases>
    <release version={quoteattr(version)} date="{date.today().isoformat()}">Exported; compile with {_FLAGS}</release>
  </releases>
  <conditions>
    <condition id="Cortex-M">
      <description>Any Cortex-M</description>
      <accept Dcore="Cortex-M*"/>
    </condition>
  </conditions>
  <components>
    <component {said} condition="Cortex-M">
      <description>Steps of all stages, the guarded loop and the store</description>
      <files>
{chr(10).join(files)}
      </files>
    </component>
  </components>
</package>
"""
    (folder / f"lightning_fwd.{name}.pdsc").write_text(text)


#: kind to the file by which a package of before is known, and what writes it
PACKAGES: dict[str, tuple[str, Callable[[Path, Path, str, str, str], None]]] = {
    "arduino": ("library.properties", _arduino),
    "zephyr": ("zephyr/module.yml", _zephyr),
    "cmsis": ("src", _cmsis),
}
