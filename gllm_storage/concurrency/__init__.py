"""How work runs and ends: threads, stops, memory, forks."""
