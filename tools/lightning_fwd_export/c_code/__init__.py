"""From a checked program to C: one emitter per operator, one writer for the files."""
