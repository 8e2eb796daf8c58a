"""Device, precision, processes and signals."""
