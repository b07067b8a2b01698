"""Provider ``file``: a local folder."""
