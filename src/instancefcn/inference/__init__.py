"""Inference: find pictures, run a model on them, draw and write what it found."""
