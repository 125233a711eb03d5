"""`instancefcn predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from instancefcn.cli.predict_sources import check_request, chosen_kinds, segment
from instancefcn.cli.prediction_request import PredictionRequest

# Options that `propose` has too.
Places = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Picture files, folders (the pictures directly in them), quoted patterns such as "
        "'photos/**/*.jpg', https://... addresses, video files, or 'webcam' ('webcam:1' for the second).",
        show_default=False,
    ),
]
Save = Annotated[
    str,
    typer.Option(
        metavar="KINDS",
        help="What to write, with commas between, or 'none': 'overlay' (a PNG a picture, an annotated "
        "video), 'coco' (COCO results, and predictions.json with all of them), 'yolo' (Ultralytics labels), "
        "'labelme', 'cutouts' (an RGBA PNG an object), 'labelmap' (a 16-bit PNG), 'csv' (a table of "
        "all objects).",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON object a picture on standard output; all else goes to standard error."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="'cpu', 'cuda' or 'cuda:1'; a GPU is taken when there is one.", show_default=False),
]
Tile = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        min=32,
        help="Segment large pictures by overlapping tiles of so many pixels a side. Objects on a seam come "
        "out once and whole.",
        show_default=False,
    ),
]
Explain = Annotated[
    bool,
    typer.Option("--explain", help="Also draw the score maps of the best object of every picture."),
]
Frames = Annotated[
    int | None,
    typer.Option(min=1, help="Stop a video or webcam after so many frames.", show_default=False),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on with the same call that was stopped: what it wrote to OUT is not done again."
    ),
]


def predict(
    sources: Places,
    model: Annotated[
        str,
        typer.Option(metavar="NAME|PATH", help="A bundled model, a checkpoint file or the folder of a run."),
    ] = "fcis-animals7",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path("predictions"),
    score: Annotated[float, typer.Option(min=0, max=1, help="Leave out objects below this score.")] = 0.5,
    save: Save = "overlay,coco",
    json_: Json = False,
    batch: Annotated[int, typer.Option(min=1, help="Pictures that run at once (worth it on a GPU).")] = 1,
    tile: Tile = None,
    explain: Explain = False,
    frames: Frames = None,
    device: Device = None,
    resume: Resume = False,
) -> None:
    """Segment pictures and videos: every object found, named and outlined.

    A file that is no picture is reported and the rest goes on; the exit status is then 1.
    """
    wanted = PredictionRequest(
        out, chosen_kinds(save), score, batch, tile, frames, explain, json_, resume=resume
    )
    # Mistakes in the sources show before torch is imported and the model read.
    from instancefcn.inference.sources import find_sources

    found = find_sources(sources, out)
    check_request(found, wanted)
    from instancefcn.inference.predictor import load

    segment(load(model, device=device), found, wanted)
