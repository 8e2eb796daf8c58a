"""Trained models: restored, evaluated, and used to classify."""
