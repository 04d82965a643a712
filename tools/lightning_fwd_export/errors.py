"""The exporter's one error."""

from lightning_fwd.graph.errors import LightningFwdError


class ExportError(LightningFwdError):
    """Something cannot be exported, or an export would be wrong. Says what, where, why and how to mend it."""
