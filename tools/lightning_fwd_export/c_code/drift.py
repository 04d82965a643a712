"""The source's moments and the threshold as C: what ``lfwd_drift.c`` holds features against."""

from __future__ import annotations

from lightning_fwd.adaptation.drift_score import REACH, DriftScore

from .kernels import number

DRIFT = "lfwd_drift_tables.h"  #: where it is, ``lfwd_drift.c`` belongs to the export


def drift_bytes(score: DriftScore | None) -> tuple[int, int]:
    """``(constants, RAM)`` of ``lfwd_drift.c``."""
    features = len(score.mean) if score else 0
    return 4 * (2 * features + features * (features + 1) // 2), 4 * features


def _columns(score: DriftScore) -> list[float]:
    """The lower triangle, column by column."""
    size = len(score.mean)
    return [score.factor[j, i] for i in range(size) for j in range(i, size)]


def write_drift(score: DriftScore, false_alarms: float) -> str:
    """``lfwd_drift_tables.h``."""
    macros = {"WEIGHT": score.weight, "THRESHOLD": score.threshold, "REACH": REACH}
    arrays = [
        f"static const float lfwd_drift_{name}[{len(values)}] = {{{', '.join(number(float(v), 'float') for v in values)}}};"
        for name, values in (("mean", score.mean), ("scale", score.scale), ("factor", _columns(score)))
    ]
    return "\n".join(
        [
            f"/* The source's moments of each feature. The threshold: {100 * false_alarms:g} % of streams without drift pass it. */",
            "#ifndef LFWD_DRIFT_TABLES_H",
            "#define LFWD_DRIFT_TABLES_H",
            "",
            f"#define LFWD_FEATURES {len(score.mean)}",
            *(f"#define LFWD_DRIFT_{name} {number(value, 'float')}" for name, value in macros.items()),
            "",
            "#ifdef LFWD_DRIFT_TABLES",
            *arrays,
            "#endif",
            "#endif",
            "",
        ]
    )
