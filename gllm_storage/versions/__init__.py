"""Published versions: a directory that is in the store completely or not at all."""
