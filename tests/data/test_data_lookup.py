import io
import os
import socket
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from lightning_fwd.data import DATASETS, HAR_DRIFTS, load_dataset, load_domains, lookup
from lightning_fwd.data.har import HAR_SOURCES
from lightning_fwd.data.npz import JpegImages, read_npz

DATA = os.environ.get("LIGHTNING_FWD_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="LIGHTNING_FWD_DATA is not set: no real data files")


@pytest.fixture
def empty_home(monkeypatch, tmp_path):
    """No data folder, an empty cache."""
    monkeypatch.delenv("LIGHTNING_FWD_DATA", raising=False)
    monkeypatch.setenv("LIGHTNING_FWD_CACHE", str(tmp_path / "cache"))
    return tmp_path


def own_arrays(train=20, test=10, shape=(6, 5), dtype=np.uint8, classes=3):
    random = np.random.default_rng(0)
    make = lambda n: (random.integers(0, 255, (n, *shape)).astype(dtype), np.arange(n) % classes)  # noqa: E731
    (x_train, y_train), (x_test, y_test) = make(train), make(test)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def jpeg(height=32, width=32, seed=0):
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(out, "JPEG")
    return np.frombuffer(out.getvalue(), np.uint8)


# --- real data -------------------------------------------------------------------------------------------------------


def test_digits_come_with_the_library(empty_home):
    digits = load_dataset("digits")
    assert digits.input_shape == (1, 8, 8) and len(digits.y_train) + len(digits.y_test) == 1797
    assert digits.x_train.min() == 0 and digits.x_train.max() == 1 and digits.modality == "image"
    assert np.bincount(digits.y_test).min() >= 34  # stratified
    assert load_dataset("digits") is digits
    with pytest.raises(ValueError, match="read-only"):
        digits.x_train[0] = 0


@needs_data
@pytest.mark.parametrize(
    ("name", "title", "shape", "train", "test"),
    [
        ("mnist", "MNIST", (1, 28, 28), 60000, 10000),
        ("fashion_mnist", "Fashion-MNIST", (1, 28, 28), 60000, 10000),
        ("cifar10", "CIFAR-10 (JPEG)", (3, 32, 32), 50000, 10000),
        ("har", "HAR (phone)", (6, 64), 4076, 2235),
    ],
)
def test_real_files_load_with_the_right_counts(name, title, shape, train, test):
    dataset = load_dataset(name, root=DATA)
    assert (dataset.title, dataset.input_shape) == (title, shape)
    assert (len(dataset.x_train), len(dataset.y_train), len(dataset.x_test), len(dataset.y_test)) == (
        train, train, test, test,
    )  # fmt: skip
    if name != "har":
        assert tuple(np.bincount(dataset.y_test)) == lookup._ENTRIES[name].download.test_counts
        assert dataset.x_train.dtype == np.uint8


@needs_data
def test_cifar_is_shuffled_and_decodes_only_what_is_asked_for():
    dataset = load_dataset("cifar10", root=DATA)
    assert len(set(dataset.y_test[:100])) == 10
    few = load_dataset("cifar10", root=DATA, limit=30)
    assert few.x_train.shape == (30, 3, 32, 32) and (np.bincount(few.y_train) == 3).all()
    first = dataset.x_test[:4]
    raw = np.load(f"{DATA}/cifar10_jpeg.npz")
    ends = np.cumsum(raw["len_test"], dtype=np.int64)
    i = np.random.default_rng(0).permutation(len(ends))[2]
    stream = raw["jpeg_test"][ends[i] - raw["len_test"][i] : ends[i]]
    assert np.array_equal(first[2], np.asarray(Image.open(io.BytesIO(stream.tobytes()))).transpose(2, 0, 1))
    assert dataset.y_test[2] == raw["y_test"][i]
    assert 100 < first.mean() < 140
    assert dataset.x_train._decoded.sum() < 5000


@needs_data
def test_har_drifts_share_the_sources_that_are_said_to_be_one():
    sources = {drift: load_domains("har", drift)[0] for drift in HAR_DRIFTS}
    for one in HAR_DRIFTS:
        for other in HAR_DRIFTS:
            a, b = sources[one], sources[other]
            same = a.x_train.shape == b.x_train.shape and np.array_equal(a.x_train, b.x_train) and np.array_equal(a.x_test, b.x_test)
            assert same == (HAR_SOURCES[one] == HAR_SOURCES[other])


@needs_data
def test_har_domains_share_no_recording():
    for drift in HAR_DRIFTS:
        source, target = load_domains("har", drift, root=DATA)
        assert source.classes == target.classes and source.title != target.title
        assert not set(source.groups_train) & set(target.groups_train)
        assert len(source.y_test) > 500 and len(target.y_test) > 500
        assert set(target.y_test) == set(range(5))
    assert load_domains("har", "device", root=DATA)[1].title == "HAR (watch)"
    with pytest.raises(ValueError, match="unknown real drift 'weather' of 'har'; known are: device, subject, both"):
        load_domains("har", "weather", root=DATA)


# --- not there -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_offline_ends_quickly_in_an_error_that_names_everything(empty_home, monkeypatch, name):
    def unreachable(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    # The real fetch_openml runs: only the network is gone.
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    monkeypatch.setenv("LIGHTNING_FWD_DATA", str(empty_home))
    start = time.monotonic()
    with pytest.warns(UserWarning, match="network error"), pytest.raises(FileNotFoundError) as caught:
        load_dataset(name)
    message = str(caught.value)
    assert time.monotonic() - start < 5
    for part in (f"{name}.npz", str(empty_home), "LIGHTNING_FWD_DATA", str(empty_home / "cache"), "Name or service"):
        assert part in message
    assert socket.getdefaulttimeout() is None


def test_no_folder_and_no_download(empty_home):
    with pytest.raises(FileNotFoundError, match="no spsw_har_windows.npz .*LIGHTNING_FWD_DATA is not set.* no download"):
        load_dataset("har")


@pytest.mark.parametrize("name", ["imagenet", "some/folder", "data.csv"])
def test_unknown_names_list_the_known(name):
    with pytest.raises(ValueError, match="unknown data set .*; known are: digits, mnist, fashion_mnist, cifar10, har"):
        load_dataset(name)


def test_a_download_is_checked_and_cached(empty_home, monkeypatch):
    calls = []
    counts = lookup._MNIST_TEST_COUNTS
    labels = np.concatenate([np.arange(10).repeat(20), np.arange(10).repeat(counts)])

    def fetch(name, **options):
        calls.append(name)
        (empty_home / "cache").mkdir(exist_ok=True)
        table = type("Table", (), {})()
        table.data = np.tile((labels % 256)[:, None], (1, 784)).astype(float)
        table.target = labels.astype(str)
        return table

    monkeypatch.setattr(lookup, "fetch_openml", fetch)
    for _ in range(2):
        dataset = load_dataset("mnist")
    assert calls == ["mnist_784"] and dataset.title == "MNIST"
    assert dataset.x_train.shape == (200, 1, 28, 28) and len(dataset.y_test) == 10000
    assert (dataset.x_test[:, 0, 0, 0] == dataset.y_test).all()
    assert [file.name for file in (empty_home / "cache").iterdir()] == ["mnist.npz"]

    labels = labels[::-1].copy()
    (empty_home / "cache" / "mnist.npz").unlink()
    with pytest.raises(FileNotFoundError, match="its last 10000 rows are not the published test set"):
        load_dataset("mnist")


# --- your own --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "expected", "modality"),
    [
        ((6, 5), np.uint8, (1, 6, 5), "image"),
        ((6, 5, 3), np.uint8, (3, 6, 5), "image"),
        ((1, 6, 5), np.uint8, (1, 6, 5), "image"),
        ((6, 50), np.float64, (6, 50), "signal"),
        ((6, 50), np.int16, (6, 50), "signal"),
        ((1, 49, 10), np.float32, (1, 49, 10), "signal"),
    ],
)
def test_own_npz(tmp_path, shape, dtype, expected, modality):
    arrays = own_arrays(shape=shape, dtype=dtype)
    np.savez(tmp_path / "mine.npz", **arrays, classes=np.array(["a", "b", "c"]), other=np.array([None]))
    dataset = load_dataset(str(tmp_path / "mine.npz"))
    assert (dataset.title, dataset.input_shape, dataset.modality) == ("mine", expected, modality)
    assert dataset.classes == ("a", "b", "c")
    assert np.array_equal(np.sort(dataset.x_train, None), np.sort(arrays["x_train"], None))


def test_float_pixels_are_images(tmp_path):
    arrays = own_arrays(shape=(1, 6, 5))
    np.savez(tmp_path / "mine.npz", **{k: v / np.float32(255) if k[0] == "x" else v for k, v in arrays.items()})
    assert load_dataset(str(tmp_path / "mine.npz")).modality == "image"


def test_a_folder_joins_its_files_and_a_changed_file_is_read_anew(tmp_path):
    for i in range(2):
        np.savez(tmp_path / f"part{i}.npz", **own_arrays(train=20 + i))
    assert len(load_dataset(str(tmp_path)).y_train) == 41
    np.savez(tmp_path / "part1.npz", **own_arrays(train=30))
    os.utime(tmp_path / "part1.npz", ns=(1, 1))
    assert len(load_dataset(str(tmp_path)).y_train) == 50
    np.savez(tmp_path / "part2.npz", **own_arrays(shape=(7, 7)))
    with pytest.raises(ValueError, match="cannot be joined"):
        load_dataset(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no .npz file with x_train"):
        load_dataset(str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match="no file .*gone.npz"):
        load_dataset(str(tmp_path / "gone.npz"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": None}, "no array y_train; there are: x_train"),
        ({"y_train": np.arange(19) % 3}, "x_train has 20 samples, y_train has 19"),
        ({"y_train": np.linspace(0, 1, 20)}, "y_train is float64 .*expected whole numbers"),
        ({"y_train": np.arange(20) - 1}, "y_train spans -1..18, expected class numbers from 0"),
        ({"y_test": np.full(10, 5)}, r"y_test holds the labels \[5\], which y_train never shows"),
        ({"y_train": np.array([{}] * 20)}, "holds Python objects, which are never unpickled"),
        ({"x_test": np.zeros((10, 7, 5), np.uint8)}, "samples of x_train and x_test differ"),
        ({"x_train": np.zeros((20, 30), np.float32)}, r"has shape \(20, 30\), expected"),
        ({"x_train": np.zeros((20, 3, 8, 3), np.uint8)}, "channels first or last"),
        ({"x_train": np.full((20, 6, 5), np.nan)}, "holds NaN or infinity"),
        ({"x_train": np.zeros((20, 6, 5), "U1")}, "expected numbers"),
        ({"x_test": np.zeros((0, 6, 5), np.uint8), "y_test": np.zeros(0, int)}, "x_test is empty"),
        ({"y_train": np.arange(20) % 3 + 1, "y_test": np.arange(10) % 3 + 1}, "never shows 0: .* 4 classes, counted from 0; subtract 1"),
        ({"y_train": np.arange(20) % 3 * 2, "y_test": np.arange(10) % 3 * 2}, "never shows 1, 3: .*number the classes without gaps"),
        ({"classes": np.array(["a", "b"])}, "label 2, but there are only 2 classes"),
    ],
)
def test_own_files_with_faults_are_refused_by_name(tmp_path, change, message):
    arrays = {key: value for key, value in (own_arrays() | change).items() if value is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(str(tmp_path / "bad.npz"))
    assert "bad.npz" in str(caught.value)


def test_a_class_without_samples_is_taken_where_it_has_a_name(tmp_path):
    arrays = own_arrays()
    np.savez(
        tmp_path / "named.npz", **arrays | {k: arrays[k] % 3 + 1 for k in ("y_train", "y_test")}, classes=np.array(["background", *"abc"])
    )
    assert load_dataset(str(tmp_path / "named.npz")).classes == ("background", "a", "b", "c")


# --- damaged files ---------------------------------------------------------------------------------------------------


def test_cut_off_and_flipped_files(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, **own_arrays(train=500))
    whole = path.read_bytes()
    for damaged in (b"", b"not a zip", whole[: len(whole) // 2], whole[:200] + bytes(64) + whole[264:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="mine.npz: not a usable .npz file"):
            read_npz(path, ["x_train"])


def test_a_header_that_lies_about_its_size_reserves_nothing(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**50,)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(10))
    with pytest.raises(ValueError, match=r"states \(1125899906842624,\) of uint8, .* but stores"):
        read_npz(tmp_path / "bomb.npz", ["x"])


def test_jpeg_images_index_like_an_array():
    files = [jpeg(seed=i) for i in range(3)]
    lengths = np.array([len(file) for file in files], np.uint16)
    images = JpegImages(np.concatenate(files), lengths, 32, "a file", order=np.array([2, 0, 1]))
    decoded = [np.asarray(Image.open(io.BytesIO(file.tobytes()))).transpose(2, 0, 1) for file in files]
    assert np.array_equal(images[np.array([1, 0])], np.stack([decoded[0], decoded[2]]))
    assert images._decoded.tolist() == [True, True, False]
    assert np.array_equal(images[2], decoded[1])
    assert np.array_equal(np.asarray(images), np.stack([decoded[2], decoded[0], decoded[1]]))
    assert len(images) == 3 and images.shape == (3, 3, 32, 32)


def test_damaged_jpeg_streams():
    file = jpeg()
    with pytest.raises(ValueError, match="a file: the lengths of 1 images do not add up"):
        JpegImages(file, np.array([len(file) - 1]), 32, "a file")
    with pytest.raises(ValueError, match="do not add up"):
        JpegImages(file, np.array([len(file), 0]), 32, "a file")
    with pytest.raises(ValueError, match="expected a JPEG stream of uint8"):
        JpegImages(file, np.array([float(len(file))]), 32, "a file")
    with pytest.raises(ValueError, match="a file: image 0 cannot be decoded: is 32x32 pixels, expected 28x28"):
        JpegImages(file, np.array([len(file)]), 28, "a file")[:]
    for damaged in (file[: len(file) // 2], np.zeros(100, np.uint8)):
        with pytest.raises(ValueError, match="image 0 cannot be decoded"):
            JpegImages(damaged, np.array([len(damaged)]), 32, "a file")[:]


def test_damaged_cifar_and_har_files(tmp_path):
    stream, count = np.concatenate([jpeg(seed=i) for i in range(4)]), 4
    lengths = np.array([len(jpeg(seed=i)) for i in range(4)], np.uint16)
    part = {"jpeg_train": stream, "len_train": lengths, "jpeg_test": stream, "len_test": lengths}
    labels = np.arange(count, dtype=np.uint8)
    np.savez(tmp_path / "cifar10_jpeg.npz", **part, y_train=labels, y_test=labels)
    assert load_dataset("cifar10", root=tmp_path).x_test[:].shape == (4, 3, 32, 32)
    np.savez(tmp_path / "cifar10_jpeg.npz", **part, y_train=labels[:3], y_test=labels)
    os.utime(tmp_path / "cifar10_jpeg.npz", ns=(1, 1))
    with pytest.raises(ValueError, match="4 images but 3 labels in train"):
        load_dataset("cifar10", root=tmp_path)

    good = {
        "x": np.zeros((4, 6, 8), np.float16), "y": labels, "subject": labels + 14, "execution": labels + 5,
        "device": labels % 2, "classes": np.array(["a", "b", "c", "d"]),
    }  # fmt: skip
    faults = [
        ({"x": np.zeros((4, 6), np.float16)}, "expected finite floats"),
        ({"y": labels[:3]}, "y is uint8"),
        ({"device": labels}, "a device other than 0"),
        ({"classes": np.array(["a"])}, "label 3, but there are only 1 classes"),
    ]
    for stamp, (change, message) in enumerate(faults):
        np.savez(tmp_path / "spsw_har_windows.npz", **(good | change))
        os.utime(tmp_path / "spsw_har_windows.npz", ns=(stamp, stamp))
        with pytest.raises(ValueError, match=message):
            load_dataset("har", root=tmp_path)


def test_names_are_public():
    assert DATASETS == ("digits", "mnist", "fashion_mnist", "cifar10", "har", "speech_commands", "visual_wake_words")
