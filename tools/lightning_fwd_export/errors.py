"""The exporter's errors."""

from lightning_fwd.errors import LightningFwdError


class ExportError(LightningFwdError):
    """Something cannot be exported, or an export would be wrong. Says what, where, why and how to mend it."""


class NoKernel(ExportError):
    """An operator that no C can be written for. ``layer`` is the module path it comes from, "" where unknown."""

    def __init__(self, what: str, why: str = "", mend: str = "", layer: str = ""):
        super().__init__(what, why, mend)
        self.layer = layer
