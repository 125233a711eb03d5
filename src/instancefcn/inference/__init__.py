"""Inference: find images, run a model on them, draw and write what it finds."""
