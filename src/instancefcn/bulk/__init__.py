"""Segmenting millions of images on a cluster, with Ray Data. The images are listed once and cut into numbered
chunks; each chunk is written whole or not at all.

`listing` finds the images, `job` keeps the folder of results, `worker` turns a chunk into its two Parquet
files, and `cluster` runs workers as Ray's actors. Only `cluster` needs Ray; the rest needs pyarrow.
"""

from __future__ import annotations

from importlib.util import find_spec

from instancefcn.errors import MissingPackageError


def need_ray() -> None:
    """Raise MissingPackageError unless Ray Data is installed."""
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise MissingPackageError("Ray Data is not installed: pip install 'ray[data]' pyarrow")
