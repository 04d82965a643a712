"""The threshold of the source as C: what ``lfwd_anomaly.c`` begins with."""

from __future__ import annotations

from .kernels import number

ANOMALY = "lfwd_anomaly_tables.h"  #: where it is, ``lfwd_anomaly.c`` belongs to the export


def write_anomaly(threshold: float, false_alarms: float) -> str:
    """``lfwd_anomaly_tables.h``."""
    return "\n".join(
        [
            f"/* {100 * false_alarms:g} % of normal samples without drift lie above the threshold. */",
            "#ifndef LFWD_ANOMALY_TABLES_H",
            "#define LFWD_ANOMALY_TABLES_H",
            "",
            f"#define LFWD_FALSE_ALARMS {number(false_alarms, 'float')}",
            f"#define LFWD_ANOMALY_THRESHOLD {number(threshold, 'float')}",
            "#endif",
            "",
        ]
    )
