"""Very many images on a cluster, with Ray Data: listed once, cut into numbered chunks, each chunk written
whole or not at all.

`listing` finds the images, `job` keeps the folder of results, `worker` turns one chunk into its two Parquet
files, and `cluster` lets Ray's actors do so. Only `cluster` needs Ray; the rest needs pyarrow.
"""

from __future__ import annotations

from importlib.util import find_spec

from instancefcn.errors import MissingPackageError


def need_ray() -> None:
    """Raises MissingPackageError where Ray Data is missing."""
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise MissingPackageError("Ray Data is not installed: pip install 'ray[data]' pyarrow")
