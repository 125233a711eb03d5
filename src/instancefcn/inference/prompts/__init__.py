"""Masks where a person points: under a click, or in a dragged box, from maps that are made once an image."""

from __future__ import annotations

from instancefcn.inference.prompts.reader import Candidate, ImageMaps, PromptReader

__all__ = ["Candidate", "ImageMaps", "PromptReader"]
