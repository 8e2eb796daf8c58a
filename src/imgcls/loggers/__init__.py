"""A run's output: text, progress, metrics, TensorBoard."""
