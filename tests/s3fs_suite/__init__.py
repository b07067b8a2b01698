"""s3fs's own test-suite, run on our `S3FileSystem` in place of theirs. `deviations.py` names what comes out otherwise."""
