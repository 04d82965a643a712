"""One way to a data set: by name, or by the path of your own file.

A name is looked up in the folder that `LIGHTNING_FWD_DATA` names, then among earlier downloads, then downloaded.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from sklearn.datasets import fetch_openml, load_digits

from lightning_fwd.data.dataset import KEYS, Dataset, dataset_from_arrays
from lightning_fwd.data.har import HAR_DRIFTS, har_domains
from lightning_fwd.data.mlperf_sets import speech_commands, visual_wake_words
from lightning_fwd.data.npz import JpegImages, read_npz
from lightning_fwd.data.subsets import hold_out
from lightning_fwd.errors import LightningFwdError

DATA_FOLDER, CACHE_FOLDER = "LIGHTNING_FWD_DATA", "LIGHTNING_FWD_CACHE"
CONNECT_SECONDS = 10.0  # how long a download may hang before it counts as "no network"

_TEN_DIGITS = tuple("0123456789")
_GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_MNIST_TEST_COUNTS = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)


@dataclass(frozen=True)
class _Download:
    """A data set on OpenML, train rows first; `test_counts` per class in the last rows prove the canonical order."""

    openml_name: str
    shape: tuple[int, ...]
    test_counts: tuple[int, ...]


@dataclass(frozen=True)
class _Entry:
    title: str
    file: str
    classes: tuple[str, ...]
    download: _Download | None = None
    lossy_file: str | None = None


_ENTRIES = {
    "mnist": _Entry("MNIST", "mnist.npz", _TEN_DIGITS, _Download("mnist_784", (28, 28), _MNIST_TEST_COUNTS)),
    "fashion_mnist": _Entry("Fashion-MNIST", "fashion_mnist.npz", _GARMENTS, _Download("Fashion-MNIST", (28, 28), (1000,) * 10)),
    "cifar10": _Entry("CIFAR-10", "cifar10.npz", _CIFAR, _Download("CIFAR_10", (3, 32, 32), (1000,) * 10), "cifar10_jpeg.npz"),
    "har": _Entry("HAR", "spsw_har_windows.npz", ()),
    "speech_commands": _Entry("Speech Commands (MLPerf Tiny)", "speech_commands_mlperf.npz", ()),
    "visual_wake_words": _Entry("Visual Wake Words (MLPerf Tiny)", "visual_wake_words_mlperf.npz", ()),
}
DATASETS: tuple[str, ...] = ("digits", *_ENTRIES)
"""The names that `load_dataset` knows."""


def load_dataset(name: str, *, root: str | Path | None = None, limit: int | None = None) -> Dataset:
    """Load a data set by name or path. Loaded once per process; treat the arrays as read-only.

    Args:
        name: one of `DATASETS` ("digits" comes with scikit-learn); or the path of an .npz with the arrays x_train, y_train, x_test, y_test
            (and classes, if you like), or of a folder of such files, which are joined in the order of their names. See
            `dataset_from_arrays` for the shapes.
        root: folder with the files, in place of the one that the environment variable LIGHTNING_FWD_DATA names.
        limit: at most so many samples of train and of test, class shares kept.

    Returns:
        The data set. CIFAR-10 from `cifar10_jpeg.npz` is lossy and titled "CIFAR-10 (JPEG)": never set its figures
        beside published CIFAR-10 figures. "har" is the phone; `load_domains` gives the real drifts.

    Raises:
        ValueError: unknown name, or a file that is damaged.
        FileNotFoundError: no such file and no download; names the file, the folder and the variable.
    """
    dataset = load_domains(name, root=root)[0]
    return dataset if limit is None else dataset.limited(limit)


def load_domains(name: str, drift: str = "device", *, root: str | Path | None = None) -> tuple[Dataset, Dataset]:
    """Source and target of a data set that holds real drift; for the others twice the same.

    Args:
        name, root: as in `load_dataset`.
        drift: for "har" one of `HAR_DRIFTS`; see `har_domains`.
    """
    if name == "digits":
        return (_digits(),) * 2
    if name not in _ENTRIES:
        return (_own(name),) * 2
    folders = [Path(folder) for folder in (root, os.environ.get(DATA_FOLDER)) if folder][:1]
    entry = _ENTRIES[name]
    for folder in [*folders, _cache()]:
        for file in filter(None, (entry.file, entry.lossy_file)):
            if (folder / file).is_file():
                return _from_file(name, folder / file, drift)
    return _from_file(name, _download(name, entry, folders), drift)


def _from_file(name: str, path: Path, drift: str) -> tuple[Dataset, Dataset]:
    changed = path.stat().st_mtime_ns
    if name == "har":
        domains = _read_har(path.resolve(), changed)
        if drift not in domains:
            raise ValueError(f"unknown real drift {drift!r} of 'har'; known are: {', '.join(HAR_DRIFTS)}")
        return domains[drift]
    if name in _HALVES:
        return (_read_halves(path.resolve(), changed, name),) * 2
    read = _read_jpeg if path.name == _ENTRIES[name].lossy_file else _read_plain
    return (read(path.resolve(), changed, name),) * 2


@lru_cache(maxsize=4)
def _read_plain(path: Path, changed: int, name: str) -> Dataset:
    entry = _ENTRIES[name]
    return dataset_from_arrays(read_npz(path, KEYS), entry.title, entry.classes, str(path))


_HALVES = {"speech_commands": speech_commands, "visual_wake_words": visual_wake_words}


@lru_cache(maxsize=2)
def _read_halves(path: Path, changed: int, name: str) -> Dataset:
    return _HALVES[name](path, _ENTRIES[name].title)


@lru_cache(maxsize=1)
def _read_har(path: Path, changed: int) -> dict[str, tuple[Dataset, Dataset]]:
    return har_domains(path)


@lru_cache(maxsize=1)
def _read_jpeg(path: Path, changed: int, name: str) -> Dataset:
    keys = [f"{kind}_{part}" for part in ("train", "test") for kind in ("jpeg", "len", "y")]
    raw = read_npz(path, keys)
    arrays = {}
    for part in ("train", "test"):
        labels, lengths = raw[f"y_{part}"], raw[f"len_{part}"]
        if labels.shape != lengths.shape:
            raise ValueError(f"{path}: {len(lengths)} images but {len(labels)} labels in {part}")
        # Stored sorted by class: whoever takes the first thousand must not get one class.
        order = np.random.default_rng(0).permutation(len(labels))
        images = JpegImages(raw[f"jpeg_{part}"], lengths, 32, f"{path} ({part})", order)
        arrays |= {f"x_{part}": images, f"y_{part}": labels[order]}
    return dataset_from_arrays(arrays, f"{_ENTRIES[name].title} (JPEG)", _CIFAR, str(path))


@lru_cache(maxsize=1)
def _digits() -> Dataset:
    digits = load_digits()
    x, y = (digits.images / 16).astype(np.float32)[:, None], digits.target
    train, test = hold_out(y, 0.2, seed=0)
    arrays = {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}
    return dataset_from_arrays(arrays, "digits", _TEN_DIGITS, "scikit-learn digits")


def _own(name: str) -> Dataset:
    path = Path(name).expanduser()
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if path.is_dir() and not files:
        raise FileNotFoundError(f"the folder {path} holds no .npz file with {', '.join(KEYS)}")
    if path.suffix != ".npz" and not path.is_dir():
        known = f"{', '.join(DATASETS)}, or the path of an .npz file or of a folder of them"
        raise ValueError(f"unknown data set {name!r}; known are: {known}")
    if not files[0].is_file():
        raise FileNotFoundError(f"no file {path.absolute()}")
    files = tuple(file.resolve() for file in files)
    return _read_own(files, tuple(file.stat().st_mtime_ns for file in files), path.stem)


@lru_cache(maxsize=4)
def _read_own(files: tuple[Path, ...], changed: tuple[int, ...], title: str) -> Dataset:
    source = str(files[0] if len(files) == 1 else files[0].parent)
    try:
        return _joined(files, source, title)
    except LightningFwdError:
        raise
    except ValueError as error:  # names the file and the array
        raise LightningFwdError(str(error), "", "what the arrays must be: lightning-fwd list data") from error


def _joined(files: tuple[Path, ...], source: str, title: str) -> Dataset:
    shards = [read_npz(file, KEYS, ["classes"]) for file in files]
    try:
        joined = {key: np.concatenate([shard[key] for shard in shards]) for key in KEYS}
    except ValueError as error:
        raise ValueError(f"{source}: the files' arrays cannot be joined: {error}") from error
    names = [_class_names(shard.get("classes"), source) for shard in shards]
    if len(set(names)) > 1:
        raise ValueError(f"{source}: the files name different classes")
    return dataset_from_arrays(joined, title, names[0] or None, source)


def _class_names(classes: np.ndarray | None, source: str) -> tuple[str, ...]:
    if classes is None:
        return ()
    if classes.ndim != 1 or classes.dtype.kind not in "USiu" or len(np.unique(classes)) < len(classes):
        raise ValueError(f"{source}: classes is {classes.dtype} {classes.shape}, expected one name for each class, all different")
    return tuple(name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in classes)


def _cache() -> Path:
    return Path(os.environ.get(CACHE_FOLDER) or Path.home() / ".cache" / "lightning_fwd").expanduser()


def _download(name: str, entry: _Entry, folders: list[Path]) -> Path:
    """Fetch from OpenML into the cache as the .npz that the next call finds there."""
    files = " or ".join(filter(None, (entry.file, entry.lossy_file)))
    looked = f"{folders[0]}" if folders else f"(the environment variable {DATA_FOLDER} is not set)"
    missing = f"data set {name!r}: no {files} in the data folder {looked} nor in the cache {_cache()}"
    mend = f"put the file into a folder and set {DATA_FOLDER} to it"
    if entry.download is None:
        raise FileNotFoundError(f"{missing}, and there is no download for it; {mend}")
    timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(CONNECT_SECONDS)
        parser = "pandas" if importlib.util.find_spec("pandas") else "liac-arff"
        quick = {"n_retries": 1, "delay": 0.1}
        table = fetch_openml(entry.download.openml_name, version=1, data_home=str(_cache()), as_frame=False, parser=parser, **quick)
        arrays = _canonical(np.asarray(table.data), np.asarray(table.target), entry.download)
        target = _cache() / entry.file
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, **arrays)
        partial.replace(target)  # at once: a second process never reads half a file
    except (OSError, ValueError) as error:
        failed = f"the download failed ({type(error).__name__}: {error})"
        raise FileNotFoundError(f"{missing}, and {failed}; {mend}, or connect to a network") from error
    finally:
        socket.setdefaulttimeout(timeout)
    return target


def _canonical(data: np.ndarray, labels: np.ndarray, download: _Download) -> dict[str, np.ndarray]:
    tests = sum(download.test_counts)
    x, y = data.reshape(-1, *download.shape).astype(np.uint8), labels.astype(np.uint8)
    if tuple(np.bincount(y[-tests:], minlength=10)) != download.test_counts:
        raise ValueError(f"{download.openml_name}: its last {tests} rows are not the published test set")
    return {"x_train": x[:-tests], "y_train": y[:-tests], "x_test": x[-tests:], "y_test": y[-tests:]}
