"""Files that nobody vouches for: read within bounds, written whole; whatever goes wrong names the file."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import LightningFwdError

TEXT_BYTES = 1 << 20  #: of the largest file that is read as text: parsing more takes minutes
_UNPACKED_BYTES, _UNPACKED_TIMES = 1 << 28, 50  #: an archive may always unpack to so many bytes, and to so many times its own size


def require_file(path: str | Path, what: str, mend: str, error: type[LightningFwdError] = LightningFwdError) -> Path:
    """The path of a file of this machine that can be read to its end: no folder, pipe or device.

    Args:
        what: what it was to be ("the scenario"). mend: what the user can do. error: class of what is raised.

    Raises:
        error: naming the file.
    """
    path = Path(path)
    try:
        if not path.exists():
            why = "there is no such file"
        elif not path.is_file():
            why = "it is a folder" if path.is_dir() else "it is a pipe or a device, no file"
        elif not os.access(path, os.R_OK):
            why = "it may not be read by this user"
        else:
            return path
    except (OSError, ValueError) as fault:  # a name with a null byte, or longer than names can be
        why = str(fault)
    raise error(f"cannot read {what} {str(path)!r}", why, mend)


def read_text(
    path: str | Path, what: str, mend: str, error: type[LightningFwdError] = LightningFwdError, most_bytes: int = TEXT_BYTES
) -> str:
    """A small text file in UTF-8; arguments and errors as of :func:`require_file`."""
    path = require_file(path, what, mend, error)
    try:
        if path.stat().st_size > most_bytes:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, more than {most_bytes:,}")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as fault:
        raise error(f"cannot read {what} {str(path)!r}", str(fault), mend) from fault


def check_archive(path: Path) -> None:
    """Look through a ZIP archive (.npz, checkpoints of torch): every member whole, none that unpacks to more than the file could mean.

    torch itself does not compare the checksums. A writer that was told to leave them out (``torch.serialization.set_crc32_options(False)``)
    has none right; such a file passes.

    Raises:
        ValueError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        require_modest(archive, path)
        members = archive.infolist()
        damaged = [member.filename for member in members if not _is_whole(archive, member)]
        if damaged and len(damaged) < len(members):
            raise ValueError(f"its part {damaged[0]!r} is damaged")


def require_modest(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse an archive whose members state sizes beyond what one of its size may mean.

    Raises:
        ValueError: saying how much.
    """
    unpacked, packed = sum(member.file_size for member in archive.infolist()), path.stat().st_size
    if unpacked > max(_UNPACKED_BYTES, _UNPACKED_TIMES * packed):
        raise ValueError(f"it would unpack to {unpacked:,} bytes, {unpacked // max(1, packed):,} times its size")


def _is_whole(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    with archive.open(member) as file:
        try:
            while file.read(1 << 20):
                pass
        except (zipfile.BadZipFile, zlib.error):
            return False
    return True


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file at once: whoever reads, or kills this process, finds the old content or the new.

    Raises:
        LightningFwdError: it cannot be written; names the file.
    """
    path = Path(path)
    with naming(path):
        part = path.with_name(path.name + ".part")
        part.write_text(text, encoding="utf-8", newline="")
        part.replace(path)


@contextmanager
def naming(path: str | Path, mend: str = "free space there, or choose a folder that you may write to") -> Iterator[None]:
    """Errors of the disk (full, read-only, taken away), which do not always name a file, name this one. Also a decorator.

    Raises:
        LightningFwdError: in place of OSError.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise LightningFwdError(f"cannot write to {path}", why, mend) from error
