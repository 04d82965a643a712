"""Data sets by one lookup, drift as a transform, and LightningDataModules that show a data set before and after it."""

from lightning_fwd.data.datamodule import DriftDataModule
from lightning_fwd.data.dataset import Dataset
from lightning_fwd.data.drift import AUDIO_DRIFTS, DRIFTS, Drift, DriftChain, as_drift
from lightning_fwd.data.har import HAR_DRIFTS
from lightning_fwd.data.lookup import DATASETS, load_dataset, load_domains
from lightning_fwd.data.stream import DriftStream

__all__ = [
    "AUDIO_DRIFTS",
    "DATASETS",
    "DRIFTS",
    "HAR_DRIFTS",
    "Dataset",
    "Drift",
    "DriftChain",
    "DriftDataModule",
    "DriftStream",
    "as_drift",
    "load_dataset",
    "load_domains",
]
