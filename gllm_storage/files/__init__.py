"""This machine's end of a transfer: source files, atomic target files, and spools for content that is not sent yet."""
