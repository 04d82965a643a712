"""The way back: what a device learned, out of its Flash or memory, into the PyTorch model that was exported."""

from .load import load_device_weights
from .table import TABLE, Stored, Table, digest_of, read_table, write_table

__all__ = ["TABLE", "Stored", "Table", "digest_of", "load_device_weights", "read_table", "write_table"]
