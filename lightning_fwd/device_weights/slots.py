"""What came off a device, as the bytes of ``lfwd_get_weights``: that blob itself, a slot of ``lfwd_store.h``, or a dump that holds both."""

from __future__ import annotations

import struct
import zlib

from ..errors import LightningFwdError

_MAGIC, _VERSION, _HEADER = b"LFWD", 1, struct.Struct("<4s5I")  # magic, version, model hash, number of the save, state and weights bytes
_AGAIN = "read the device's Flash again, both slots; or take the bytes of lfwd_get_weights"


def weights_of(content: bytes, weights_bytes: int, state_bytes: int, model_hash: int, what: str) -> bytes:
    """The bytes of all weights.

    Args:
        content: exactly ``weights_bytes``: of ``lfwd_get_weights``. Anything else: one slot or several, whatever lies between them; the
            newest whole one counts, as it does for ``lfwd_load``.
        what: what it is, for errors.

    Raises:
        LightningFwdError: neither; or no slot is whole, of this model, and of this format.
    """
    if len(content) == weights_bytes:
        return content
    found, refused, at = [], [], content.find(_MAGIC)
    while at >= 0:
        judged = _judge(content, at, weights_bytes, state_bytes, model_hash)
        if isinstance(judged, int):
            found.append((judged, at))
            at = content.find(_MAGIC, at + _HEADER.size + state_bytes)  # what was learned may spell it too
        else:
            refused.append((at, judged))
            at = content.find(_MAGIC, at + 1)
    if found:
        newest = found[0]
        for other in found[1:]:
            newest = other if 0 < (other[0] - newest[0]) % 2**32 < 2**31 else newest  # the number wraps around
        start = newest[1] + _HEADER.size
        return content[start : start + weights_bytes]
    why = "; ".join(f"the slot at byte {place} {reason}" for place, reason in refused[:3])
    sizes = f"{len(content):,} bytes, where lfwd_get_weights gives {weights_bytes:,}" + (
        f" and a slot has at least {_HEADER.size + state_bytes + 4:,}" if state_bytes else ""
    )
    raise LightningFwdError(f"{what} does not hold this program's weights", why or f"it has {sizes}, and no slot begins in it", _AGAIN)


def _judge(content: bytes, at: int, weights_bytes: int, state_bytes: int, model_hash: int) -> int | str:
    """The number of the save of a whole slot, or why it is refused."""
    end = at + _HEADER.size + state_bytes
    if len(content) < at + _HEADER.size:
        return "ends within its header"
    _, version, model, number, state, weights = _HEADER.unpack_from(content, at)
    if version != _VERSION:
        return f"has version {version} of the format, known is {_VERSION}"
    if model != model_hash:
        return (
            f"belongs to another model, or to other frozen weights or another rule: its hash is 0x{model:08x}, that of the export "
            f"0x{model_hash:08x}"
        )
    if (state, weights) != (state_bytes, weights_bytes):
        return f"states {state:,} bytes of state and {weights:,} of weights, the export {state_bytes:,} and {weights_bytes:,}"
    if len(content) < end + 4:
        return f"is cut off: {len(content) - at:,} of {end + 4 - at:,} bytes"
    if zlib.crc32(content[at:end]) != int.from_bytes(content[end : end + 4], "little"):
        return "is damaged, or its save was cut off: its CRC is wrong"
    return number
