"""Loading a checkpoint of any kind: of the networks in `models`, or of converted weights."""

from __future__ import annotations

from pathlib import Path

from instancefcn.errors import CheckpointError
from instancefcn.models.checkpoint import KINDS, Loaded, load_checkpoint
from instancefcn.published.network import NAME, PublishedSpec


def load_any_checkpoint(source: Path | str) -> Loaded:
    """As `instancefcn.models.checkpoint.load_checkpoint`, and also checkpoints of converted weights.

    Raises:
        CheckpointError: there is no such thing, it is damaged, foreign, or from a newer version.
    """
    if str(source) == NAME and not Path(source).exists():
        raise CheckpointError(
            f"{source}: neither a file, nor a run folder, nor a bundled model: {source} comes from published"
            " weights: instancefcn convert-weights IN OUT."
        )
    return load_checkpoint(source, (*KINDS, PublishedSpec))
