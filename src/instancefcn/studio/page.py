"""The page: a place to drop images, the bundled examples, and the viewer of what was found."""

from __future__ import annotations

import asyncio
import html
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from instancefcn.errors import InstanceFCNError
from instancefcn.inference.predictor import DEFAULT_SCORE
from instancefcn.inference.writers import prediction
from instancefcn.studio.results import Kept, PageResult, view
from instancefcn.studio.service import MAX_BYTES, SUFFIXES, WAITING, ModelQueue

FLOOR = 0.05
"""Objects of classes below this score are not even sent to the page: its slider starts here."""

TOP = 100
"""The most proposals of one image on the page; for objects the model's own limit holds."""

FIRST = 10
"""How many proposals the page begins with: their scores say little about how good they are."""

CSS = """
.gradio-container .html-container { padding: 0; }
#drop .wrap { padding-top: 22px; min-height: 0; }
#drop .icon-wrap { display: none; }
#examples .gallery-item { cursor: pointer; }
"""
"""What Gradio's own look is changed by; the viewer brings its own."""

HOUR = 3600
PAGE = files("instancefcn") / "studio" / "assets"


class Page:
    """The page's events, and what they share.

    Args:
        finder: finds objects of classes.
        proposer: finds objects of any class.
        kept: where results stay for the downloads.
        examples: image files to click.
    """

    def __init__(self, finder: ModelQueue, proposer: ModelQueue, kept: Kept, examples: list[Path]) -> None:
        self.workers = {"predict": finder, "propose": proposer}
        self.kept, self.examples = kept, examples

    async def uploaded(self, path: str | None, verb: str) -> tuple[Any, Any, Any]:
        """A file was dropped: show what is in it, and make the drop zone ready for the next."""
        if path is None:
            return gr.skip(), gr.skip(), None
        token, value = await self._show(Path(path).read_bytes(), Path(path).stem, verb)
        return token, value, None

    async def example(self, index: int, verb: str) -> tuple[Any, Any]:
        """An example was clicked."""
        path = self.examples[index]
        return await self._show(path.read_bytes(), path.stem, verb)

    async def switched(self, token: str | None, verb: str) -> tuple[Any, Any]:
        """The other model was chosen: run it on the image that is there."""
        if token is None:
            return gr.skip(), gr.skip()
        result = self.kept.get(token)
        if result is None:
            return _complain("this image is no longer kept: drop it once more")
        return await self._show(result.data, result.name, verb)

    async def _show(self, data: bytes, name: str, verb: str) -> tuple[Any, Any]:
        """A token for the downloads, and what the viewer draws; on an error a message, and both stay."""
        worker = self.workers[verb]
        try:
            with worker.turns.place():
                floor, top = (FLOOR, None) if verb == "predict" else (0.0, TOP)
                image, found = await worker.segment(data, floor, top)
        except InstanceFCNError as error:
            return _complain(str(error))
        if verb == "predict" and (limit := found.filter(DEFAULT_SCORE).limit_reached):
            gr.Info(f"The limit of {limit} objects is reached: there may be more.", title="Limit")
        document = await asyncio.to_thread(prediction, name, found)
        token = self.kept.add(PageResult(name, data, document))
        scores = found.scores.tolist()
        return token, {
            "token": token,
            "verb": verb,
            "labels": len(found.class_names) > 1,
            "score": DEFAULT_SCORE if verb == "predict" else min(scores[:FIRST], default=0.0),
            **await asyncio.to_thread(view, image, found, document),
        }


def _complain(message: str) -> tuple[Any, Any]:
    # Not `raise gr.Error`: the drop zone would keep the file that was wrong.
    gr.Warning(html.escape(message), title="Error")
    return gr.skip(), gr.skip()


def build_page(page: Page, verb: str) -> gr.Blocks:
    """The page's layout.

    Args:
        page: what happens.
        verb: "predict" or "propose": which of the two is chosen at first.
    """
    with gr.Blocks(title="instancefcn", analytics_enabled=False, delete_cache=(600, HOUR)) as blocks:
        gr.HTML(_asset("head.html"))
        token = gr.State(None, time_to_live=HOUR)
        with gr.Row(equal_height=True):
            drop = gr.File(
                label=f"Your image (at most {MAX_BYTES // 1_000_000} MB)",
                file_types=list(SUFFIXES),
                height=124,
                scale=2,
                min_width=270,
                elem_id="drop",
            )
            examples = gr.Dataset(
                label="Examples",
                components=[gr.Image(type="filepath", visible=False)],
                samples=[[str(path)] for path in page.examples],
                type="index",
                layout="gallery",
                scale=3,
                min_width=320,
                elem_id="examples",
            )
        choice = gr.Radio(
            [("Objects with names (FCIS)", "predict"), ("Proposals: any object (InstanceFCN)", "propose")],
            value=verb,
            show_label=False,
            container=False,
            elem_id="verb",
        )
        viewer = gr.HTML(
            None,
            html_template=_asset("viewer.html"),
            css_template=_asset("viewer.css"),
            js_on_load=_asset("viewer.js"),
            apply_default_css=False,
            elem_id="viewer",
        )
        network: dict[str, Any] = {
            "concurrency_limit": len(page.workers),
            "concurrency_id": "network",
            "show_progress_on": viewer,
            "api_visibility": "private",
        }
        drop.upload(page.uploaded, [drop, choice], [token, viewer, drop], **network)
        examples.click(page.example, [examples, choice], [token, viewer], **network)
        choice.input(page.switched, [token, choice], [token, viewer], **network)
    blocks.queue(max_size=WAITING)
    return blocks


def _asset(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")
