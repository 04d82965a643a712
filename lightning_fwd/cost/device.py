"""Device profiles: what a MAC and a byte cost on a named board, and whether a training step fits it.

A profile is a YAML file (`devices/*.yaml`, or one of your own). Every figure in it says where it comes from:

    clock_hz: {value: 170_000_000, kind: datasheet, source: "STM32G474RE datasheet"}

`kind` is measured (on this device, by the source), datasheet (a vendor's figure for it) or estimate (anything else:
another device, an assumption, arithmetic on either). The fields are those of `Device`; `cycles_per_mac` and `pj_per_mac`
hold, for each width, the phases of the step graph with a figure of their own and a `default` for all others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from textwrap import indent

import yaml

from lightning_fwd.errors import LightningFwdError
from lightning_fwd.graph.phase import PHASES
from lightning_fwd.strict_yaml import read_yaml

KINDS = ("measured", "datasheet", "estimate")
WIDTHS = ("int8", "fp32")  #: of arithmetic; a step of mixed width has both
EXAMPLE = """\
name: my_board
core: Cortex-M4
clock_hz: {value: 170_000_000, kind: datasheet, source: "its datasheet"}
sram_bytes: {value: 131_072, kind: datasheet, source: "its datasheet"}
flash_bytes: {value: 524_288, kind: datasheet, source: "its datasheet"}
cycles_per_mac:
  int8: {default: {value: 2, kind: estimate, source: "why you think so"}}
  fp32: {default: {value: 7, kind: estimate, source: "why you think so"}}
"""  #: the least that a profile holds
_LEAST = indent(EXAMPLE, "    ").rstrip()
_BUILT_IN = files("lightning_fwd.cost") / "devices"


@dataclass(frozen=True)
class Figure:
    """One number of a profile, its kind (`KINDS`) and its source."""

    value: float
    kind: str
    source: str


ByWidthAndPhase = Mapping[str, Mapping[str, Figure]]


@dataclass(frozen=True)
class Verdict:
    """Whether a step fits, and the bytes to spare (negative: missing)."""

    fits: bool
    ram_margin_bytes: int
    flash_margin_bytes: int
    text: str


@dataclass(frozen=True)
class Device:
    """A device that a training step may run on.

    Attributes:
        counts: what `cycles_per_mac` counts: "cycles", or "instructions" for a device known from an emulator only.
        cycles_per_mac: by width ("int8", "fp32"), then phase, with "default" for the phases not named. The traffic of
            the MAC kernels' operands is part of the figure.
        pj_per_mac: picojoule, likewise; without a width where nothing is known.
        constant_weights_only: the phases' own figures hold where one operand is constant, as for an NPU whose compiler takes the weights
            in; products with trained weights take the default figure in every phase.
        pj_per_byte: picojoule per byte, by memory ("sram", "flash"), of operations that have no MAC; empty where nothing
            is known.
    """

    name: str
    core: str
    clock_hz: Figure
    sram_bytes: Figure
    flash_bytes: Figure
    cycles_per_mac: ByWidthAndPhase
    counts: str = "cycles"
    constant_weights_only: bool = False
    pj_per_mac: ByWidthAndPhase = field(default_factory=dict)
    pj_per_byte: Mapping[str, Figure] = field(default_factory=dict)

    def cycles(self, macs_by_phase: Mapping[str, int], width: str) -> float:
        """Cycles (or instructions, see `counts`) of the MACs of one step.

        Raises:
            LightningFwdError: the profile has no figures for this width.
        """
        return self._weighted("cycles_per_mac", macs_by_phase, width)

    def without_npu(self, macs_by_phase: Mapping[str, int], without_constants: Mapping[str, int]) -> dict[str, int]:
        """MAC by phase, those that this device does at its default figure whatever their phase under ``"default"``."""
        if not self.constant_weights_only:
            return dict(macs_by_phase)
        rest = {phase: macs - without_constants.get(phase, 0) for phase, macs in macs_by_phase.items()}
        return rest | {"default": sum(without_constants.values())}

    def latency_s(self, macs_by_phase: Mapping[str, int], width: str) -> float:
        """Seconds of the MACs of one step; a lower bound of the step, since operations without MAC are not in it.

        Where the profile counts instructions it is the time at one instruction per clock, and no latency of any silicon.
        """
        return self.cycles(macs_by_phase, width) / self.clock_hz.value

    def energy_j(self, macs_by_phase: Mapping[str, int], width: str, sram_bytes: int = 0, flash_bytes: int = 0) -> float | None:
        """Joule of the MACs of one step and of the bytes that operations without MAC move; None where the profile names
        no energy for this width. No better than the figures it is made of: see their `kind`."""
        if width not in self.pj_per_mac:
            return None
        picojoule = self._weighted("pj_per_mac", macs_by_phase, width)
        for memory, moved in (("sram", sram_bytes), ("flash", flash_bytes)):
            if moved:
                if memory not in self.pj_per_byte:
                    return None
                picojoule += moved * self.pj_per_byte[memory].value
        return picojoule * 1e-12

    def fits(self, ram_bytes: int, flash_bytes: int) -> Verdict:
        """Compare what a step needs with what the device has, bytes."""
        margins = {
            "RAM": (ram_bytes, int(self.sram_bytes.value)),
            "Flash": (flash_bytes, int(self.flash_bytes.value)),
        }
        clauses = []
        for memory, (needed, present) in margins.items():
            spare = f"{present - needed:,} B free" if needed <= present else f"{needed - present:,} B too many"
            clauses.append(f"{memory} {needed:,} of {present:,} B ({spare})")
        ram, flash = (present - needed for needed, present in margins.values())
        fits = ram >= 0 and flash >= 0
        verdict = "fits" if fits else "does not fit"
        return Verdict(fits, ram, flash, f"{verdict} {self.name}: {', '.join(clauses)}")

    def figures(self) -> Iterator[tuple[str, Figure]]:
        """Every figure with its path in the profile, `cycles_per_mac.int8.default`."""
        for attribute in fields(self):
            yield from _walk(attribute.name, getattr(self, attribute.name))

    def phases(self, what: str, width: str) -> Mapping[str, Figure]:
        """Figures of ``cycles_per_mac`` or ``pj_per_mac`` by phase, for the arithmetic of one width ("int8" or "fp32").

        Raises:
            LightningFwdError: the profile has none.
        """
        table = getattr(self, what)
        if width not in table:
            raise LightningFwdError(
                f"device {self.name} has no {what} for width {width!r}",
                f"its profile names {', '.join(table)}",
                "choose one of these, or add the width to a profile of your own",
            )
        return table[width]

    def _weighted(self, what: str, macs_by_phase: Mapping[str, int], width: str) -> float:
        phases = self.phases(what, width)
        return sum(macs * phases.get(phase, phases["default"]).value for phase, macs in macs_by_phase.items())


def _walk(path: str, value: object) -> Iterator[tuple[str, Figure]]:
    if isinstance(value, Figure):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _walk(f"{path}.{key}", inner)


def device_names() -> list[str]:
    """Names of the profiles that come with the library."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _BUILT_IN.iterdir() if entry.name.endswith(".yaml"))


def load_device(name_or_path: str | Path) -> Device:
    """Load a profile by its name, or from a YAML file of your own (a path that ends in .yaml or .yml).

    Raises:
        LightningFwdError: no such profile or file, or a field of the file is missing, unknown or malformed; the text
            names the field.
    """
    if not isinstance(name_or_path, str | Path):
        raise LightningFwdError(
            f"device {name_or_path!r} is neither a name nor a path",
            f"profiles are {', '.join(device_names())}",
            "choose one, or give the path of a YAML file of your own",
        )
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if str(name_or_path) not in device_names():
            raise LightningFwdError(
                f"unknown device {str(name_or_path)!r}",
                f"profiles are {', '.join(device_names())}",
                "choose one, or give the path of a YAML file of your own",
            )
        path = Path(str(_BUILT_IN / f"{name_or_path}.yaml"))
    content = read_yaml(
        path, "the device profile", f"profiles by name are {', '.join(device_names())}; one of your own holds at least:\n{_LEAST}"
    )
    return _Reader(path).device(content)


def save_device(device: Device, path: Path) -> None:
    """Write a profile that :func:`load_device` reads."""
    content = {name: value for name, value in asdict(device).items() if value != {}}
    path.write_text(yaml.safe_dump(content, sort_keys=False, width=150), encoding="utf-8")


class _Reader:
    """Turns the content of one YAML file into a Device, with the path of the field in every complaint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def wrong(self, where: str, expected: str) -> LightningFwdError:
        return LightningFwdError(
            f"device profile {self.path}: {where or 'the file'} {expected}",
            mend=f"a profile holds at least:\n{_LEAST}",
        )

    def device(self, content: object) -> Device:
        optional = {"counts", "constant_weights_only", "pj_per_mac", "pj_per_byte"}
        known = [attribute.name for attribute in fields(Device)]
        content = self.mapping("", content, required=[name for name in known if name not in optional], allowed=known)
        for name in ("name", "core"):
            if not isinstance(content[name], str) or not content[name]:
                raise self.wrong(name, "must be text")
        if content.get("counts", "cycles") not in ("cycles", "instructions"):
            raise self.wrong("counts", f"must be cycles or instructions, not {content['counts']!r}")
        if not isinstance(content.get("constant_weights_only", False), bool):
            raise self.wrong("constant_weights_only", f"must be true or false, not {content['constant_weights_only']!r}")
        for name in ("clock_hz", "sram_bytes", "flash_bytes"):
            content[name] = self.figure(name, content[name])
        for name in {"cycles_per_mac", "pj_per_mac"} & content.keys():
            widths = self.mapping(name, content[name], allowed=WIDTHS)
            content[name] = {width: self.phases(f"{name}.{width}", phases) for width, phases in widths.items()}
        if "pj_per_byte" in content:
            memories = self.mapping("pj_per_byte", content["pj_per_byte"], allowed=["sram", "flash"])
            content["pj_per_byte"] = {m: self.figure(f"pj_per_byte.{m}", figure) for m, figure in memories.items()}
        return Device(**content)

    def phases(self, where: str, value: object) -> dict[str, Figure]:
        phases = self.mapping(where, value, required=["default"], allowed=["default", *PHASES])
        return {phase: self.figure(f"{where}.{phase}", figure) for phase, figure in phases.items()}

    def mapping(self, where: str, value: object, required: Sequence[str] = (), allowed: Sequence[str] | None = None) -> dict[str, object]:
        if not isinstance(value, dict) or not value or not all(isinstance(key, str) for key in value):
            raise self.wrong(where, f"must be a mapping of named fields, not {value!r}")
        prefix = f"{where}." if where else ""
        for key in required:
            if key not in value:
                raise self.wrong(f"{prefix}{key}", "is missing")
        for key in value:
            if allowed is not None and key not in allowed:
                raise self.wrong(f"{prefix}{key}", f"is unknown; known are {', '.join(allowed)}")
        return dict(value)

    def figure(self, where: str, value: object) -> Figure:
        keys = ["value", "kind", "source"]
        content = self.mapping(where, value, required=keys, allowed=keys)
        number = content["value"]
        if not isinstance(number, int | float) or isinstance(number, bool) or not 0 < number < float("inf"):
            raise self.wrong(f"{where}.value", f"must be a positive number, not {number!r}")
        if content["kind"] not in KINDS:
            raise self.wrong(f"{where}.kind", f"must be one of {', '.join(KINDS)}, not {content['kind']!r}")
        if not isinstance(content["source"], str) or not content["source"]:
            raise self.wrong(f"{where}.source", "must be text that says where the value comes from")
        return Figure(**content)
