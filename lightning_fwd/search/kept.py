"""What a search keeps in its folder, each line with its check: a measurement that was changed, doubled or cut is told, not used."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import LightningFwdError
from ..plain_files import read_text, write_whole
from .space import Genome, Space

_MOST_BYTES = 1 << 26


def measurement(genome: Genome, drift: str, accuracy: float) -> str:
    """One line of a file of measurements: ``GENOME,DRIFT,ACCURACY,CHECK``, accuracy in percent."""
    values, text = [" ".join(map(str, genome)), drift, str(accuracy)], io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([*values, _check(values)])
    return text.getvalue()


def read_measurements(file: Path, space: Space, drifts: Sequence[str]) -> dict[tuple[Genome, str], float]:
    """All measurements of a file, none where there is no file; a last line that a killed run left unfinished is taken off.

    Raises:
        LightningFwdError: a line is damaged, stands twice, or is of another search; names the file and the line.
    """
    known: dict[tuple[Genome, str], float] = {}
    if not file.exists():
        return known
    whole, newline, unfinished = read_text(
        file, "the measurements", "delete the file: they are made again", most_bytes=_MOST_BYTES
    ).rpartition("\n")
    if unfinished:
        write_whole(file, whole + newline)
    checked = False  # the first lines of an older folder have no check, later ones do
    for number, line in enumerate(whole.split("\n") if whole else [], 1):
        try:
            values = next(csv.reader([line]), [])
            checked = checked or len(values) == 4
            if len(values) != (4 if checked else 3) or (checked and values[3] != _check(values[:3])):
                raise ValueError("it is damaged")
            genome, drift, accuracy = tuple(map(int, values[0].split())), values[1], float(values[2])
            if len(genome) != len(space.everything) or drift not in drifts:
                raise ValueError(f"this search has no {values[0]!r} under {drift!r}")
            if not all(0 <= g <= most for g, most in zip(genome, space.everything, strict=True)) or not 0 <= accuracy <= 100:
                raise ValueError(f"nothing can have been measured so: {line!r}")
            if (genome, drift) in known:
                raise ValueError("it was measured before, in a line above")
        except (ValueError, csv.Error) as error:
            raise LightningFwdError(
                f"cannot read {file}, line {number}", str(error), "delete the line, or the file: it is measured again"
            ) from error
        known[genome, drift] = accuracy
    return known


def prices_as_text(prices: Mapping[Genome, tuple[int, int]]) -> str:
    """Prices ``(RAM bytes, MAC)`` by genome, with their check, for :func:`read_prices`."""
    values = [[list(genome), list(cost)] for genome, cost in prices.items()]
    return json.dumps({"check": _check(values), "prices": values})


def read_prices(file: Path) -> dict[Genome, tuple[int, int]]:
    """What :func:`prices_as_text` wrote; nothing where the file is missing, older or damaged: the ledger is asked again then, which takes
    seconds."""
    try:
        content = json.loads(read_text(file, "the prices", "", most_bytes=_MOST_BYTES))
        if content["check"] == _check(content["prices"]):
            return {tuple(genome): (int(ram), int(macs)) for genome, (ram, macs) in content["prices"]}
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return {}


def _check(values: list) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
