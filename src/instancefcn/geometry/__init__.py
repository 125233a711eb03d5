"""Boxes, masks and outlines: plain computation, without networks or files."""
