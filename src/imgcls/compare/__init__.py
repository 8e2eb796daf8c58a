"""Honest comparison: which of these runs is better, and is a run what it says."""
