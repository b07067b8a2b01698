"""Time, CPU and memory of this library and its peers: ``make bench`` or ``python -m benchmarks``."""
