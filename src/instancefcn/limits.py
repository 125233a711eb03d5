"""How much a file may ask for: every limit that holds wherever files are read, in one place.

A file that asks for more is refused with an error that says so. SECURITY.md gives the memory and time that
follow from these numbers; the web page has smaller ones of its own (`instancefcn.studio.service`).
"""

from __future__ import annotations

# Pictures
MAX_PIXELS = 178_956_970
"""Of a picture or mask file that is decoded (0.5 GB as RGB), Pillow's own limit."""
MAX_LENGTH = 1_000_000
"""Of a picture's side, in pixels."""
MAX_FILE_BYTES = 2**30
"""Of a picture file."""
MAX_SCANS = 500
"""Of a JPEG file: every scan of a progressive one is a walk over the whole picture, for a few bytes."""
MAX_SEGMENTS = 1000
"""Of EXIF data, profiles and the like in a JPEG file: Pillow joins each to all before it."""
MAX_NOTES = 2**18
"""Bytes of comments and the like before the pixels of a GIF file, joined likewise."""

# Annotations
MAX_JSON_BYTES = 2**31
"""Of a JSON file; instances_train2017.json of COCO has 0.45 GB."""
MAX_TEXT_BYTES = 2**27
"""Of a list of pictures, or of the label file of one picture."""
MAX_YAML_BYTES = 2**20
"""Of a YAML file, which is read at about a tenth of a megabyte a second."""
MAX_DRAWN = 4_000_000
"""Pixels that the sides of an outline's polygons may be long together: drawing holds memory for each."""
MAX_MASK_PIXELS = 2**30
"""Pixels in the rectangles around the objects of one picture together: each object's are held."""
MAX_RINGS = 5_000
"""Parts and holes of a mask that are joined to one outline: each is tied to the nearest of all before it."""
MAX_CLASSES = 100_000
"""Of a dataset or model."""
MAX_PROBLEMS = 100_000
"""Reading ends at so many: the file is another than its reader takes it for."""

# Models
MAX_HEADER_BYTES = 2**24
"""Of the JSON document in a checkpoint."""
MAX_INPUT = 8192
"""Of the sides, in pixels, to which a checkpoint wants pictures scaled."""

MAX_TILES = 10_000
"""Into which one picture is cut."""
