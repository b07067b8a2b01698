"""How work runs and ends: threads, cancellation, memory, forks."""
