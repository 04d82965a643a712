"""Detection and false alarms of the drift score, on the drifts of the official networks.

    python tools/benchmarks/drift_score.py --out runs/drift_score

Moments and threshold come from one half of the source (the part that adapts); streams are drawn from the other. An alarm counts if it comes
within 200 inputs. False alarms: the same without drift.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np

from lightning_fwd.adaptation.drift_score import DriftScore, features_of
from lightning_fwd.data import DriftDataModule
from lightning_fwd.models.mlperf_tiny import DSCNN, ResNet8

HORIZON, STREAMS = 200, 500
SPEECH = ["white_noise=0.1", "white_noise=0.56", "babble=0.56", "dull_microphone=10", "reverberation=0.075", "clipping=0.04", "rate=0.8"]
IMAGES = ["noise=0.04", "noise=0.08", "contrast=0.3", "blur=3", "brightness=0.3", "rotation=20", "pixelation=2", "gain_offset=0.2"]
NETWORKS = {
    "ds_cnn": (DSCNN, "ds_cnn_kws", SPEECH, {"dataset": "speech_commands", "val_fraction": 0}),
    "resnet8": (ResNet8, "resnet8", IMAGES, {"dataset": "cifar10", "normalize": "byte", "train_samples": 600, "test_samples": 300}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--false-alarms", type=float, default=0.01)
    parser.add_argument("--window", type=int, default=100)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.networks:
        build, weights, drifts, data = NETWORKS[name]
        net = build(weights=Path(os.environ["LIGHTNING_FWD_DATA"]) / "mlperf_tiny" / f"{weights}.npz").eval()
        source = DriftDataModule(**data)
        x, _ = source.tensors("train")
        score = DriftScore.calibrated(features_of(net, x), false_alarms=options.false_alarms, horizon=HORIZON, window=options.window)
        for drift in [None, *drifts]:
            module = source if drift is None else source.changed(drift=drift, view="target")
            x, y = module.tensors("test")
            features = features_of(net, x).numpy()
            above = score.run(features[np.random.default_rng(1).integers(0, len(features), (HORIZON, STREAMS))]) > score.threshold
            found = above.argmax(0)[above.any(0)] + 1
            row = {"network": name, "drift": drift or "none", "alarms_percent": 100 * len(found) / STREAMS}
            rows.append(row | {"median_inputs": float(np.median(found)) if len(found) else None})
            print(rows[-1], flush=True)
    (options.out / "drift_score.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
