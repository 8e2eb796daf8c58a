"""Helper processes; no torch."""
