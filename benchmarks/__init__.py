"""How fast and how lean we are beside our peers; run it with ``make bench`` or ``python -m benchmarks``."""
