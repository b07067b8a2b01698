"""Provider ``s3``."""
