"""Images inside LabelMe's JSON files (`imageData`), where the image file itself is missing."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from instancefcn.errors import ImageError
from instancefcn.limits import MAX_FILE_BYTES

SUFFIX = ".json"


def is_embedded(path: Path) -> bool:
    """Whether an image has to be taken out of a LabelMe file."""
    return path.suffix.lower() == SUFFIX


def image_bytes(path: Path) -> bytes:
    """The bytes of an image file, or of the image inside a LabelMe file.

    Raises:
        OSError: the file cannot be read.
        ImageError: the LabelMe file is damaged, holds no image, or has more than MAX_FILE_BYTES.
    """
    if not is_embedded(path):
        return path.read_bytes()
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ImageError(f"has more than {MAX_FILE_BYTES / 2**30:g} GB")
    try:
        content = json.loads(path.read_bytes())  # finds the encoding itself
        text = content.get("imageData") if isinstance(content, dict) else None
        if not isinstance(text, str) or not text:
            raise ImageError("holds no image (imageData): put the image file beside it")
        return base64.b64decode(text.rpartition(",")[2])  # some tools write a data URL
    except (ValueError, RecursionError) as error:
        raise ImageError(
            f"its image (imageData) is damaged ({error}): put the image file beside it"
        ) from error
