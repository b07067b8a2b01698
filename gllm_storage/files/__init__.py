"""The local end of a transfer: source files, atomic targets, spools."""
