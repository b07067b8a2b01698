"""The fsspec face of an object store."""
