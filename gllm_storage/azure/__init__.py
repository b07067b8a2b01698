"""Provider ``azure``: Azure Blob Storage."""
