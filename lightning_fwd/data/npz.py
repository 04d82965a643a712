"""Arrays from files that nobody vouches for: .npz without pickle, sizes checked before memory is reserved, and JPEG."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from lightning_fwd.errors import LightningFwdError
from lightning_fwd.plain_files import require_modest

_HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(path: Path, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """Read named arrays.

    Args:
        path: the .npz file.
        required: keys that must be there.
        optional: keys that are read where they are there. Others are not touched.

    Raises:
        LightningFwdError: not an .npz, a key missing, an array of Python objects, or an array whose stated size is not the
            size stored. Always names the file.
    """
    required, optional = list(required), list(optional)
    try:
        with zipfile.ZipFile(path) as archive:
            require_modest(archive, path)
            keys = {name.removesuffix(".npy"): name for name in archive.namelist()}
            missing = [key for key in required if key not in keys]
            if missing:
                raise ValueError(f"no array {', '.join(missing)}; there are: {', '.join(keys) or 'none'}")
            return {key: _read_member(archive, keys[key]) for key in required + optional if key in keys}
    except FileNotFoundError:
        raise
    except Exception as error:  # what zipfile, its decompressors and numpy's reader of headers raise on damaged files
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise LightningFwdError(
            f"{path}: not a usable .npz file: {said}", "", "take another copy of it, or write it anew by np.savez"
        ) from error


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as file:
        version = npy.read_magic(file)
        if version not in _HEADER_READERS:
            raise ValueError(f"{name}: unsupported array format {version}")
        shape, _, dtype = _HEADER_READERS[version](file)
        if dtype.hasobject:
            raise ValueError(f"{name}: holds Python objects, which are never unpickled")
        stated, stored = math.prod(shape) * dtype.itemsize + file.tell(), archive.getinfo(name).file_size
        if stated != stored:
            raise ValueError(f"{name}: states {shape} of {dtype}, {stated} bytes with its header, but stores {stored}")
    with archive.open(name) as file:
        return npy.read_array(file, allow_pickle=False)


class JpegImages:
    """JPEG files laid end to end, as an array (N, 3, H, W) of uint8 that decodes what is asked for, once.

    Args:
        stream: (bytes,) uint8, the files end to end.
        lengths: (N,) bytes of each file.
        side: height and width in pixels, which every image must have.
        source: named in errors.
        order: (N,) the order in which to show the images; as stored when left out.

    Raises:
        ValueError: lengths and stream disagree; on access, an image that is no JPEG of that size.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, stream: np.ndarray, lengths: np.ndarray, side: int, source: str, order=slice(None)) -> None:
        if stream.dtype != np.uint8 or stream.ndim != 1 or lengths.dtype.kind not in "iu" or lengths.ndim != 1:
            raise ValueError(f"{source}: expected a JPEG stream of uint8 (bytes,) and integer lengths (N,)")
        # In 64 bits: the stored uint16 lengths would overflow when summed.
        ends = np.cumsum(lengths, dtype=np.int64)
        if (lengths <= 0).any() or len(stream) != (ends[-1] if len(ends) else 0):
            raise ValueError(f"{source}: the lengths of {len(lengths)} images do not add up to the stream's {len(stream)} bytes")
        self.shape = (len(lengths), 3, side, side)
        self.source = source
        self._bytes = stream.tobytes()
        self._starts, self._ends = (ends - lengths)[order], ends[order]
        self._pixels = np.empty((len(lengths), side, side, 3), np.uint8)  # the system gives memory page by page, on use
        self._decoded = np.zeros(len(lengths), bool)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        """(n, 3, H, W) uint8."""
        wanted = np.atleast_1d(np.arange(len(self))[index])
        for i in wanted[~self._decoded[wanted]]:
            self._pixels[i] = self._decode(i)
            self._decoded[i] = True
        return np.moveaxis(self._pixels[index], -1, -3)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def _decode(self, i: int) -> np.ndarray:
        try:
            image = Image.open(io.BytesIO(self._bytes[self._starts[i] : self._ends[i]]), formats=("JPEG",))
            if image.size != self.shape[:1:-1]:  # known from the header: nothing large is decoded
                raise ValueError(f"is {image.size[0]}x{image.size[1]} pixels, expected {self.shape[3]}x{self.shape[2]}")
            return np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"{self.source}: image {i} cannot be decoded: {error}") from error
