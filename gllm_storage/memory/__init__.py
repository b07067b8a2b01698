"""Provider ``memory``."""
