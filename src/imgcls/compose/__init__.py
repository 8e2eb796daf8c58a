"""From command-line words to a table of plain values."""
