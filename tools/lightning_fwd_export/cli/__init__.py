"""The exporter's commands, which ``lightning-fwd`` finds by the entry point ``lightning_fwd.commands``: one file each."""
