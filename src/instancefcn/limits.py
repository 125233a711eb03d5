"""How much a file may ask for: all limits on files that are read.

A file that asks for more is refused with an error. SECURITY.md gives the memory and time that follow from
these numbers. The web page has smaller limits of its own (`instancefcn.studio.service`).
"""

from __future__ import annotations

# Images
MAX_PIXELS = 178_956_970
"""Pixels of an image or mask that is decoded (0.5 GB as RGB): Pillow's own limit."""
MAX_LENGTH = 1_000_000
"""Side of an image, in pixels."""
MAX_FILE_BYTES = 2**30
"""Size of an image file."""
MAX_SCANS = 500
"""Scans of a JPEG file: for a few bytes, each scan of a progressive one is a pass over the whole image."""
MAX_SEGMENTS = 1000
"""Segments of EXIF data, profiles and the like in a JPEG file: Pillow appends each to all before it."""
MAX_NOTES = 2**18
"""Bytes of comments and the like before the pixels of a GIF file, which Pillow appends likewise."""

MAX_PAGES = 100_000
"""Pages or frames of an image file that are counted."""

# Annotations
MAX_JSON_BYTES = 2**31
"""Size of a JSON file; COCO's instances_train2017.json has 0.45 GB."""
MAX_TEXT_BYTES = 2**27
"""Size of a list of images, or of the label file of one image."""
MAX_YAML_BYTES = 2**20
"""Size of a YAML file, which is parsed at about 0.1 MB per second."""
MAX_DRAWN = 4_000_000
"""Total length, in pixels, of the sides of an outline's polygons: drawing allocates memory for each pixel."""
MAX_MASK_PIXELS = 2**30
"""Total pixels in the rectangles around the objects of one image, which are all in memory."""
MAX_RINGS = 5_000
"""Parts and holes of a mask that is joined into one outline: each is compared with all before it."""
MAX_CLASSES = 100_000
"""Classes of a dataset or model."""
MAX_PROBLEMS = 100_000
"""Problems after which reading stops: the file probably has another format."""

# Models
MAX_HEADER_BYTES = 2**24
"""Size of the JSON header of a checkpoint."""
MAX_INPUT = 8192
"""Sides, in pixels, to which a checkpoint may scale images."""

MAX_TILES = 10_000
"""Tiles of one image."""
