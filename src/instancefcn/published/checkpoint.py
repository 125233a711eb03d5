"""Loading checkpoints of all kinds: of the networks in `models`, and of converted weights."""

from __future__ import annotations

from pathlib import Path

from instancefcn.errors import CheckpointError
from instancefcn.models.checkpoint import KINDS, Loaded, load_checkpoint
from instancefcn.published.network import NAME, PublishedSpec


def load_any_checkpoint(source: Path | str) -> Loaded:
    """Like `instancefcn.models.checkpoint.load_checkpoint`, for checkpoints of converted weights too.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, of another program or from a newer version.
    """
    if str(source) == NAME and not Path(source).exists():
        raise CheckpointError(
            f"{source}: not a file, run folder or bundled model: make this model from published weights with"
            " instancefcn convert-weights IN OUT"
        )
    return load_checkpoint(source, (*KINDS, PublishedSpec))
