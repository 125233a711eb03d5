"""Boxes, masks and outlines: plain computation, without networks and without files."""
