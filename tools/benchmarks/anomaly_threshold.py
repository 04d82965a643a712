"""A detector of anomalies on a device: its threshold from few normal samples, and what it finds after drift with and without it.

    LIGHTNING_FWD_DATA=... python tools/benchmarks/anomaly_threshold.py --out runs/anomaly_threshold [--board mps2-an386]

MLPerf Tiny's autoencoder with its official weights on ToyADMOS toy cars. First: of normal windows of one machine a few make a threshold,
three ways, and the others tell how many alarms it raises. Then, under drift: half of the normal recordings are there to adapt with
(windows of half of them) and to make thresholds of (the other half; the source's threshold of both halves before drift). The others and the
anomalous ones are judged by the mean over their windows. The band map is the stage ``statistics`` on the norm in front of the detector,
guarded.
With ``--board`` one of these runs on an emulated board, from windows to decisions.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

import lightning_fwd as lf
from lightning_fwd.adaptation.anomaly import Detector, NormalScores, anomaly_scores, recording_scores, source_threshold
from lightning_fwd.data.lookup import DATA_FOLDER
from lightning_fwd.data.machine_sounds import MachineSounds, load_machine_sounds
from lightning_fwd.models import build

DRIFTS = (("gain", -6.0), ("tilt", 12.0), ("response", 4.0), ("floor", 0.0), ("reverberation", 8.0))
ASKED, WINDOWS, BANDS = 0.05, 50, 128
DRAWS = 100  #: of windows, for each number of them
HOP = 20  #: windows between two that the board hears: ten of a recording
MAP = lf.Stage("statistics", {"norms": ["map"]}, batch_size=16, name="map")
BIASES = lf.Stage("sparse_update", {"train": "biases"}, lr=1e-2, epochs=20, batch_size=10, momentum=0.0, name="biases")
ROWS = {"none": [], "band map": [MAP], "band map + biases": [MAP, BIASES]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--board", help="also adapt and judge on this emulated board, under the second drift, the first seed")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sounds, net = load_machine_sounds(), build("fc_autoencoder", weights=f"{os.environ[DATA_FOLDER]}/mlperf_tiny/autoencoder_ad.npz").eval()
    text = [estimators(sounds, net, options.seeds)]
    lines = [line for seed in options.seeds for line in Split(sounds, net, seed).rows()]
    text.append(as_markdown(lines))
    if options.board:
        text.append(Split(sounds, net, options.seeds[0]).on_board(options.board, options.out / "library"))
    (options.out / "anomaly_threshold.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (options.out / "anomaly_threshold.md").write_text("\n\n".join(text) + "\n")
    print("\n\n".join(text))


def estimators(sounds: MachineSounds, net: nn.Module, seeds: list[int]) -> str:
    """Alarms in normal windows, by how the threshold was made, as a table."""
    known = {
        "prediction bound of logarithms": lambda scores, share: NormalScores.of(torch.tensor(scores)).threshold(share),
        "gamma by moments": lambda s, share: stats.gamma.isf(share, s.mean() ** 2 / s.var(ddof=1), scale=s.var(ddof=1) / s.mean()),
        "order statistic": lambda s, share: np.sort(s)[min(len(s), int(np.ceil((1 - share) * (len(s) + 1)))) - 1],
    }
    places = [(count, share) for count in (10, 20, 50, 100) for share in (0.01, 0.05, 0.1)]
    found: dict[tuple, list[float]] = {}
    for seed in seeds:
        draws = np.random.default_rng(seed)
        for machine in sounds.machine.unique():
            mine = np.flatnonzero((sounds.machine == machine) & ~sounds.anomalous)
            halves = np.array_split(draws.permutation(mine), 2)
            made, others = (
                anomaly_scores(net, sounds.some(torch.from_numpy(half)).windows().flatten(0, 1)).double().numpy() for half in halves
            )
            for count, share in places:
                for _ in range(DRAWS):
                    few = draws.choice(made, count, replace=False)
                    for name, threshold in known.items():
                        found.setdefault((name, count, share), []).append(100 * float((others > threshold(few, share)).mean()))
    head = " | ".join(f"{count}: {100 * share:g} %" for count, share in places)
    rows = [f"| {name} | {' | '.join(f'{statistics.fmean(found[name, *place]):.1f}' for place in places)} |" for name in known]
    return "\n".join(["alarms in normal windows, %, by windows: asked for", "", f"| | {head} |", f"|---|{'---:|' * len(places)}", *rows])


class Split:
    """Recordings of one seed: normal ones to adapt with and to calibrate by, and those that are judged."""

    def __init__(self, sounds: MachineSounds, net: nn.Module, seed: int):
        self.sounds, self.seed = sounds, seed
        normal = torch.nonzero(~sounds.anomalous).flatten()
        normal = normal[torch.randperm(len(normal), generator=torch.Generator().manual_seed(seed))]
        here, self.normal = normal.chunk(2)
        self.adapting, self.heard = here.chunk(2)
        self.anomalous = torch.nonzero(sounds.anomalous).flatten()
        self.home = sounds.some(here).windows()
        self.detector = Detector(net, self.home.flatten(0, 1), BANDS).eval()
        self.firmware = lf.Firmware(samples=WINDOWS, anomalies=ASKED)

    def windows(self, there: MachineSounds) -> Tensor:
        """What the device collects."""
        every = there.some(self.adapting).windows().flatten(0, 1)
        return every[torch.randperm(len(every), generator=torch.Generator().manual_seed(self.seed))[:WINDOWS]]

    def rows(self) -> list[dict]:
        """False alarms and anomalies found, by drift, row and threshold."""
        source, lines = source_threshold(self.detector, self.home, self.home[0], ASKED), []
        for kind, severity in (("gain", 0.0), *DRIFTS):  # the first is no drift
            there = self.sounds.drifted(kind, severity)
            x, heard, normal, anomalous = self.windows(there), *map(there.some, (self.heard, self.normal, self.anomalous))
            for row, stages in ROWS.items():
                done = lf.adapt(self.detector, stages, x, firmware=self.firmware, seed=self.seed) if stages else None
                net = done.network if done else self.detector
                device = NormalScores.of(recording_scores(net, heard.windows())).threshold(ASKED)
                scores = [recording_scores(net, part.windows()) for part in (normal, anomalous)]
                for name, threshold in (("source's", source), ("device's", device)):
                    alarms, found = (100 * float((part > threshold).double().mean()) for part in scores)
                    drift = f"{kind}={severity:g}" if severity or kind == "floor" else "no drift"
                    kept = [stage.kept for stage in done.stages] if done else []
                    lines.append(
                        {"drift": drift, "seed": self.seed, "row": row, "threshold": name, "false": alarms, "found": found, "kept": kept}
                    )
        return lines

    def on_board(self, name: str, folder: Path) -> str:
        """The band map under the second drift as a library on an emulated board, held against the host."""
        from lightning_fwd_export import export_library
        from lightning_fwd_export.boards import board
        from lightning_fwd_export.library.detect_on_board import detect_on_board

        kind, severity = DRIFTS[1]
        there = self.sounds.drifted(kind, severity)
        x, heard, test = (
            self.windows(there),
            *(there.some(i).windows()[:, ::HOP] for i in (self.heard, torch.cat([self.normal, self.anomalous]))),
        )
        report = export_library(self.detector, [MAP], x[:1], folder, firmware=self.firmware, seed=self.seed, source=self.home[:, ::HOP])
        ran = detect_on_board(Path(report.code), board(name), x, heard, test)
        done = lf.adapt(self.detector, [MAP], x, firmware=self.firmware, seed=self.seed)
        threshold, scores = NormalScores.of(recording_scores(done.network, heard)).threshold(ASKED), recording_scores(done.network, test)
        alarms, found = (
            100 * float((part > ran.threshold).double().mean()) for part in ran.scores.split([len(self.normal), len(self.anomalous)])
        )
        same = int(((scores > threshold) == (ran.scores > ran.threshold)).sum())
        return (
            f"{name}, {kind}={severity:g}, every {HOP}th window: threshold {ran.threshold:.4f}, on the host {threshold:.4f}; "
            f"{same} of {len(test)} decisions alike; false alarms {alarms:.1f} %, found {found:.1f} %; "
            f"{ran.instructions:,} instructions a window; "
            f"RAM {ran.ram:,} (predicted {sum(report.ram_bytes.values()):,}), Flash {ran.flash:,} bytes"
        )


def as_markdown(lines: list[dict]) -> str:
    """False alarms / anomalies found by row and drift, mean over seeds."""
    drifts = list(dict.fromkeys(line["drift"] for line in lines))
    text = ["false alarms / anomalies found, % of recordings", "", f"| adaptation, threshold | {' | '.join(drifts)} | rolled back |"]
    text.append(f"|---|{'---:|' * (len(drifts) + 1)}")
    for row, threshold in dict.fromkeys((line["row"], line["threshold"]) for line in lines):
        mine = [line for line in lines if (line["row"], line["threshold"]) == (row, threshold)]
        cells = []
        for drift in drifts:
            some = [line for line in mine if line["drift"] == drift]
            cells.append(" / ".join(f"{statistics.fmean(line[what] for line in some):.1f}" for what in ("false", "found")))
        kept = [k for line in mine for k in line["kept"]]
        text.append(f"| {row}, {threshold} | {' | '.join(cells)} | {f'{kept.count(False)} of {len(kept)}' if kept else ''} |")
    return "\n".join(text)


if __name__ == "__main__":
    main()
