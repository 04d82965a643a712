"""The command line ``lightning-fwd``: one file per command. Nothing heavy is imported before a command is known."""

from .main import main

__all__ = ["main"]
