"""Checkpoints: one safetensors file each."""
