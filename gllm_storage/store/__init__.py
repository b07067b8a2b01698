"""The promises of every object store. Nothing here knows a provider or fsspec."""
