"""Mask voting: its operator, and the steps that the operator is made of."""
