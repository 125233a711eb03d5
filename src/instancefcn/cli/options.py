"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

SourceArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Image files, folders (the images directly in them), quoted patterns such as 'photos/**/*.jpg', "
        "https://... addresses, video files, or 'webcam' ('webcam:1' for the second). Or one COCO file: "
        "results have its image ids and category ids.",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Option(metavar="NAME|PATH", help="A bundled model, a checkpoint file or the folder of a run."),
]
Score = Annotated[float, typer.Option(min=0, max=1, help="Leave out objects below this score.")]
Save = Annotated[
    str,
    typer.Option(
        metavar="KINDS",
        help="What to write, separated by commas, or 'none': 'overlay' (one PNG per image, an annotated "
        "video), 'coco' (COCO results, and predictions.json with all of them), 'yolo' (Ultralytics labels), "
        "'labelme', 'cutouts' (one RGBA PNG per object), 'labelmap' (a 16-bit PNG), 'csv' (a table of all "
        "objects).",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON object per image on standard output; everything else goes to standard error.",
    ),
]
Batch = Annotated[int, typer.Option(min=1, help="Images that run at once (useful on a GPU).")]
Precision = Annotated[
    str,
    typer.Option(
        metavar="auto|32|bf16",
        help="Of the convolutions: float32 or bfloat16; 'auto' takes bfloat16 on a CPU that computes it "
        "natively.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="'cpu', 'cuda' or 'cuda:1'; a GPU is used when there is one.", show_default=False),
]


def parse_tile(text: str) -> int | str | None:
    """The value of --tile: a number of pixels, "auto", or None for "off"."""
    if text in ("auto", "off"):
        return None if text == "off" else text
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number of pixels, auto or off") from None


Tile = Annotated[
    Any,
    typer.Option(
        metavar="auto|off|PIXELS",
        parser=parse_tile,
        help="Segment images by overlapping tiles of this side. Objects on a seam come out once and whole. "
        "'auto' does so where the objects of a large image would be much smaller than those of training.",
    ),
]
CrowdsAsObjects = Annotated[
    bool,
    typer.Option(
        "--crowds-as-objects", help="Take every crowd (iscrowd 1) as one object, as CVAT's brush masks are."
    ),
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad",
        help="Leave out annotations and images that cannot be used; all of them are listed.",
    ),
]
MaxObjects = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Maximum number of objects in an image, the best; the model's own limit, which follows its "
        "training data, when left out. Images that reach the limit are named.",
        show_default=False,
    ),
]
Explain = Annotated[
    bool, typer.Option("--explain", help="Also draw the score maps of the best object of every image.")
]
Frames = Annotated[
    int | None,
    typer.Option(min=1, help="Stop a video or webcam after this many frames.", show_default=False),
]
Page = Annotated[
    str | None,
    typer.Option(
        metavar="N|all",
        help="Page or frame of image files that have several (the first by default), or 'all'; results are "
        "named IMAGE#page2.",
        show_default=False,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue the same call that was stopped; complete results in OUT are kept.",
    ),
]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other computers connect.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 chooses a free one.")]
