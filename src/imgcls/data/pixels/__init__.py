"""From an image file to a model's input: opening, decoding, depth and background, size, normalization."""
