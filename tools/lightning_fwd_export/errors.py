"""The exporter's one error."""


class ExportError(Exception):
    """Something cannot be exported, or an export would be wrong. Says what, where, why and how to mend it."""
