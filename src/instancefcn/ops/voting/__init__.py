"""Mask voting: the operator, its specification and its steps."""
