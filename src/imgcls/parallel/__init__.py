"""Processes next to the main one; no torch."""
