"""The web page, which labels and looks, and its HTTP API. Needs the extra `app`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from instancefcn.errors import MissingPackageError


def serve(model: str | None = None, *, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page that shows what a model sees in images, and the API, until the process ends.

    Args:
        model: replaces the bundled model of its kind: a checkpoint file or the folder of a run.
        host: address to listen on; "127.0.0.1" is reached from this computer alone.
        port: 0 chooses a free one.

    Raises:
        MissingPackageError: the packages of the page are missing.
        CheckpointError: there is no such model, or it is damaged.
        ConfigError: the address or port cannot be used.
    """
    _check_packages()
    from instancefcn.studio import site

    site.serve(model, host, port)


def label(
    data: Path | str,
    *,
    out: Path | str | None = None,
    classes: Sequence[str] = (),
    model: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
) -> None:
    """Serve the page that labels images, with a model that suggests objects and is trained on what is
    labelled, until the process ends.

    Written to `out`: train.json, val.json and images/ (COCO, which `train`, `check` and `convert` take), and
    labelling/ with every change and the trained models. The images are never changed.

    Args:
        data: a folder of images, an annotated dataset in any layout of docs/data.md, or the `out` of an
            earlier call, to continue.
        out: by default the folder `data` with "-labelled" behind its name.
        classes: names to have at least; without any, "object".
        model: suggests objects at first: a bundled model, a checkpoint file or the folder of a run. By
            default the model trained here last, else the bundled one for objects of any class.
        host: address to listen on; for any but this computer's own the page's address has a secret.
        port: 0 chooses a free one.

    Raises:
        MissingPackageError: the packages of the page are missing.
        CheckpointError: there is no such model.
        ConfigError: the address or port cannot be used, a class name is not valid, or another server has the
            labels open.
        DataError: there are no images, or the dataset cannot be read.
        OutputError: `out` holds something else, or cannot be written.
    """
    _check_packages()
    from instancefcn.studio import site

    site.label(data, out, classes, model, host, port)


def _check_packages() -> None:
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        names = " ".join(missing)
        raise MissingPackageError(f"the web page needs {names}: pip install {names}")
