"""Images listed in a table: text to rows, rows to columns, labels and files."""
