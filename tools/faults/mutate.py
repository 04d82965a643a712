"""Damaged and hostile files of every kind that the library reads: is each refused in one clear error, at once, or read as what it is?

    python tools/faults/mutate.py                       # 500 files of each kind, a table
    python tools/faults/mutate.py --kinds results legacy_pt --count 100 --seed 3

Per kind a good file is made, then mutated by a seed. ``refused``: an error that the command line prints in its own words and ends with
status 2 (the columns behind it: those that name no file, or no mend). ``same``: the mutation changed nothing that is read. ``other``: read
as other content, which is right for a file without a checksum (any weight may be meant) and a fault, ``accepted``, for one with.
``traceback``, ``hang``: faults.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

from fault_kinds import KINDS, Kind
from mutations import mutations

SECONDS, WAITED = 20, 200  #: of work, or of waiting, after which a file counts as one that hangs
_MEMORY = 6 << 30  #: address space beyond what the process has at the start: a file that asks for more meets a MemoryError


class Hang(BaseException):
    """Reading took too long."""


def trial(kind: Kind, path: Path, data: bytes, good: object, way: str) -> tuple[str, str]:
    """``(outcome, what was said)`` of one file."""
    path.write_bytes(data)

    def late(*_):
        raise Hang

    signal.signal(signal.SIGALRM, late), signal.signal(signal.SIGPROF, late)
    signal.alarm(WAITED), signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = kind.read(path)
    except Hang:
        return "hang", ""
    except (ValueError, OSError, ImportError) as error:  # those that the command line prints
        said = str(error)
        if not kind.names_file(said, path):
            return "refused, no file", said
        return ("refused" if "mend:" in said else "refused, no mend"), said
    except SystemExit as stop:
        return ("refused", "") if stop.code == 2 else ("traceback", f"exit {stop.code}")
    except BaseException:
        return "traceback", traceback.format_exc()
    finally:
        signal.alarm(0), signal.setitimer(signal.ITIMER_PROF, 0)
    if kind.covers(good, content):
        return "same", ""
    return ("accepted" if kind.sealed and way == "damaged_bytes" else "other"), repr(content)[:200]


def run(kind: Kind, folder: Path, count: int, seed: int, show: bool = False) -> Counter[str]:
    """Outcomes of so many mutated files of a kind."""
    path = kind.make(folder)
    data, outcomes = path.read_bytes(), Counter[str]()
    good = kind.read(path)
    for number, (way, changed) in enumerate(mutations(data, count, seed, *kind.edits)):
        outcome, said = trial(kind, path, changed, good, way)
        outcomes[outcome] += 1
        if outcome in ("traceback", "hang", "accepted") or (show and outcome.startswith("refused,")):
            print(f"{kind.name} {number} ({way}): {outcome}\n{said}", file=sys.stderr)
            if folder_kept := os.environ.get("LFWD_KEEP_FAULTS"):
                Path(folder_kept, f"{kind.name}_{number}{path.suffix}").write_bytes(changed)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print errors that name no file or no mend")
    options = parser.parse_args()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc/self/statm").exists() else 0
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, resource.RLIM_INFINITY))
    columns = ("refused", "refused, no file", "refused, no mend", "same", "other", "accepted", "traceback", "hang")
    print("| kind | checksum |", " | ".join(columns), "|\n| --- | --- |", " | ".join(["---:"] * len(columns)), "|", flush=True)
    failed = False
    for name in options.kinds:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            outcomes = run(KINDS[name], Path(folder), options.count, options.seed, options.show)
        failed = failed or any(outcomes[bad] for bad in ("accepted", "traceback", "hang"))
        print(f"| {name} | {'yes' if KINDS[name].sealed else ''} |", " | ".join(str(outcomes[c] or "") for c in columns), "|", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
