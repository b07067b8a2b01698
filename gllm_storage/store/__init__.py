"""The promises of every object store, without a provider and without fsspec."""
