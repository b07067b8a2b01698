"""Provider ``gcs``: Google Cloud Storage."""
