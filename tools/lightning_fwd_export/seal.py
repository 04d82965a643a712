"""A checksum at the end of a .pte, so that a damaged file is told from a good one.

ExecuTorch reads a program by the offsets in its header and ignores what follows, so a sealed file stays a plain .pte.
"""

from __future__ import annotations

import hashlib

from .errors import ExportError

_MARK = b"LFWDSEAL"
_SIZE = len(_MARK) + hashlib.sha256().digest_size


def seal(program: bytes) -> bytes:
    """``program`` followed by its SHA-256."""
    return program + _MARK + hashlib.sha256(program).digest()


def is_sealed(data: bytes) -> bool:
    """Whether the data ends in a seal, right or wrong."""
    return data[-_SIZE:][: len(_MARK)] == _MARK


def unseal(data: bytes) -> bytes:
    """The program without its seal.

    Raises:
        ExportError: no seal (not written by this exporter, or cut short), or the content does not match it.
    """
    if not is_sealed(data):
        raise ExportError(
            f"not a program of this exporter: {len(data)} bytes without a seal at the end. The file is foreign or "
            "truncated; export it again, or pass trust_unsealed=True for a .pte that another tool wrote"
        )
    program, digest = data[:-_SIZE], data[-hashlib.sha256().digest_size :]
    if hashlib.sha256(program).digest() != digest:
        raise ExportError("the program's checksum does not match: the file was damaged or edited. Export it again")
    return program
