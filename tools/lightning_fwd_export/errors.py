"""The exporter's errors."""

from __future__ import annotations

from lightning_fwd.errors import LightningFwdError


class ExportError(LightningFwdError):
    """Something cannot be exported, or an export would be wrong. Says what, where, why and how to mend it."""


class NoKernel(ExportError):
    """An operator that no C can be written for. ``layer`` is the module path it comes from, "" where unknown."""

    def __init__(self, what: str, why: str = "", mend: str = "", layer: str = ""):
        super().__init__(what, why, mend)
        self.layer = layer

    def at(self, line: str, int8: bool) -> NoKernel:
        """The same with the user's source line, where it is known, and with what else would help."""
        mend = self.mend + ("; or export in float, without int8" if int8 else "")
        return NoKernel(f"{self.what}, {line}" if line else self.what, self.why, mend, self.layer)
