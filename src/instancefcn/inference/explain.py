"""Why an object was found: its k x k score maps and how they are assembled, as one figure."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instancefcn.errors import ConfigError
from instancefcn.files import atomic_write
from instancefcn.geometry import boxes as box_ops
from instancefcn.geometry.resizing import resize
from instancefcn.images.drawing import draw
from instancefcn.images.fonts import families, legible
from instancefcn.inference.predictor import Predictor
from instancefcn.instances import Instances
from instancefcn.models import windows
from instancefcn.models.fcis import FCIS
from instancefcn.models.instance_fcn import InstanceFCN
from instancefcn.ops import mask_logits

POINTS = 105
"""Samples along each side of a map in a figure: a multiple of the usual numbers of parts."""
_DRAWING = threading.Lock()  # Matplotlib is not thread-safe
INK, FAINT = "#222222", "#707680"


@dataclass(frozen=True, eq=False)
class Reading:
    """One set of k x k maps, read over a window.

    Attributes:
        parts: float32 [k, k, m, m]: every part's map over the whole window.
        assembled: float32 [m, m]: each part of the window, read from its own map.
    """

    parts: Tensor
    assembled: Tensor


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the network saw of one object.

    Attributes:
        window: float32 [4]: x1, y1, x2, y2 in pixels of the image.
        inside: of the maps that say "on the object".
        outside: of the maps that say "off the object"; None for InstanceFCN, which has none.
    """

    window: Tensor
    inside: Reading
    outside: Reading | None

    @property
    def mask(self) -> Tensor:
        """float32 [m, m]: the probability of the object, the softmax over outside and inside."""
        off = 0.0 if self.outside is None else self.outside.assembled
        return (self.inside.assembled - off).sigmoid()


def explain(predictor: Predictor, image: Tensor, instances: Instances, number: int = 0) -> Explanation:
    """Read the score maps of one object once more.

    Args:
        predictor: of an FCIS or an InstanceFCN.
        image: uint8 [3, H, W], RGB.
        instances: what the predictor found in it, as a whole.
        number: index of the object among them.

    Returns:
        for FCIS the maps of the object's class over its final box; for InstanceFCN the maps of the pyramid
        level and window that the proposal came from.

    Raises:
        ConfigError: the model was converted from published weights.
    """
    network = predictor.network
    if not isinstance(network, FCIS | InstanceFCN):
        raise ConfigError("the score maps of converted weights cannot be drawn: leave out explain")
    short, long = predictor.preprocessing.short_side, predictor.preprocessing.long_side
    resized = resize(image, short, long)[0].to(predictor.device)
    one = instances[number : number + 1]
    with torch.inference_mode():
        if isinstance(network, InstanceFCN):
            return _of_proposal(network, resized, one)
        return _of_object(network, resized, one)


def _of_object(network: FCIS, image: Tensor, one: Instances) -> Explanation:
    batch, _ = network.collate([image])
    maps, _ = network.maps(network.backbone(batch))
    own = one.labels.to(batch.device) + 1  # background is 0
    of_class = maps.of(maps.features, maps.weight[:, :, :, own], maps.bias[:, :, :, own])
    height, width = one.image_size
    window = box_ops.scale(one.boxes.to(batch.device), image.shape[2] / width, image.shape[1] / height)
    outside, inside = (_read(of_class[:, :, :, side], window, network.head.stride) for side in (0, 1))
    return Explanation(one.boxes[0], inside, outside)


def _of_proposal(network: InstanceFCN, image: Tensor, one: Instances) -> Explanation:
    levels = [network.score_maps(level) for level in network.pyramid(image)]
    size, (height, width) = image.shape[1:], one.image_size
    found = network.candidates(levels, size, one.image_size, 0.0)
    # The window of the proposal has the same score; among several, it is the one that holds the box.
    offsets = (found.scores.cpu() - one.scores).abs() * 1e6
    low, high = found.windows[:, :2].cpu(), found.windows[:, 2:].cpu()
    outside = (low - one.boxes[:, :2]).clamp(min=0).sum(1) + (one.boxes[:, 2:] - high).clamp(min=0).sum(1)
    window = found.windows[int((offsets + outside / max(height, width)).argmin())][None]
    sizes = [network.level_size(size, number) for number in range(len(levels))]
    widths = [abs(float(window[0, 2] - window[0, 0]) - network.windows.side * width / w) for _, w in sizes]
    level = widths.index(min(widths))
    own = box_ops.scale(window, sizes[level][1] / width, sizes[level][0] / height)
    return Explanation(window[0].cpu(), _read(levels[level][0][:, :, :, 1], own, windows.STRIDE), None)


def _read(maps: Tensor, window: Tensor, stride: float) -> Reading:
    """Read maps [1, k, k, 1, H, W] over a window [1, 4] of the network's input."""
    k = maps.shape[1]
    # Masks are read from the difference of two maps; here the other one is zero.
    paired = torch.stack((torch.zeros_like(maps), maps), dim=3)
    roi = box_ops.to_rois(window, 0).to(maps)
    none = torch.zeros(1, dtype=torch.int64, device=maps.device)
    assembled = mask_logits(paired, roi, none, stride, POINTS)[0]
    # Each part's map as a class of its own, in a window of one part.
    single = paired.permute(0, 4, 3, 1, 2, 5, 6).reshape(1, 1, 1, 2, k * k, *maps.shape[-2:])
    every = torch.arange(k * k, device=maps.device)
    parts = mask_logits(single.contiguous(), roi.expand(k * k, 5).contiguous(), every, stride, POINTS)
    return Reading(parts.unflatten(0, (k, k)).float().cpu(), assembled.float().cpu())


def write_explanation(
    path: Path, image: Tensor, instances: Instances, found: Explanation, number: int
) -> Path:
    """Write a PNG: the image with the object, its k x k maps over the window with each map's own part framed,
    the assembled maps, and the resulting mask.

    Args:
        path: the file.
        image: uint8 [3, H, W].
        instances, found, number: see `explain`.
    """
    import matplotlib

    name = legible(instances.names[number], f"class {int(instances.labels[number]) + 1}")
    with (
        _DRAWING,
        matplotlib.rc_context({"font.family": families([name])}),
        atomic_write(path) as temporary,
    ):
        _figure(image, instances, found, number, name).savefig(temporary, format="png", facecolor="white")
    return path


def _figure(image: Tensor, instances: Instances, found: Explanation, number: int, name: str) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [("inside", found.inside)] + ([("outside", found.outside)] if found.outside is not None else [])
    width, height = (found.window[2:] - found.window[:2]).tolist()
    # Panels have the window's shape, within reason.
    aspect = min(max(height / max(width, 1e-6), 0.4), 1.6)
    figure = Figure(figsize=(13.0, (4.2 * aspect + 0.4) * len(rows) + 0.1), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(rows), 3, width_ratios=(1, 1.1, 0.9))
    values = torch.cat([reading.parts.flatten() for _, reading in rows]).numpy()
    low, high = (float(v) for v in np.quantile(values, (0.01, 0.995)))
    scale: dict[str, Any] = {
        "cmap": "magma",
        "vmin": low,
        "vmax": max(high, low + 1e-6),
        "interpolation": "nearest",
        "aspect": aspect,
    }
    for row, (kind, reading) in enumerate(rows):
        k = len(reading.parts)
        panel = _panel(figure, grid[row, 0], f"{k} x {k} {kind} score maps, each over the whole window")
        panel.imshow(_mosaic(reading.parts), **scale)
        _frame_parts(panel, k)
        panel = _panel(figure, grid[row, 1], f"assembled {kind} map: the framed parts together")
        drawn = panel.imshow(reading.assembled.numpy(), **scale)
        for part in range(1, k):
            panel.axhline(part * POINTS / k - 0.5, color="white", linewidth=0.5, alpha=0.5)
            panel.axvline(part * POINTS / k - 0.5, color="white", linewidth=0.5, alpha=0.5)
        figure.colorbar(drawn, ax=panel, shrink=0.8, pad=0.02).outline.set_visible(False)
    score = float(instances.scores[number])
    right = grid[:, 2].subgridspec(2, 1) if len(rows) == 1 else [grid[0, 2], grid[1, 2]]
    panel = _panel(figure, right[0], f"{name} {score:.2f}")
    panel.imshow(np.asarray(draw(image, instances[number : number + 1], labels=False)))
    _frame_window(panel, found.window, instances.image_size)
    panel = _panel(
        figure, right[1], "probability: softmax(outside, inside)" if found.outside else "probability"
    )
    panel.imshow(found.mask.numpy(), cmap="gray", vmin=0, vmax=1, aspect=aspect)
    return figure


def _panel(figure: Any, cell: Any, title: str) -> Any:
    axes = figure.add_subplot(cell)
    axes.set_title(title, fontsize=10, color=INK, parse_math=False)  # a class name may hold dollar signs
    axes.set_axis_off()
    return axes


GAP = 6
"""Samples between the maps of a mosaic."""


def _mosaic(parts: Tensor) -> NDArray[np.float32]:
    """All maps [k, k, m, m] side by side, gaps (NaN) between them."""
    k = len(parts)
    side = POINTS + GAP
    whole = np.full((k * side - GAP, k * side - GAP), np.nan, np.float32)
    for i in range(k):
        for j in range(k):
            whole[i * side : i * side + POINTS, j * side : j * side + POINTS] = parts[i, j].numpy()
    return whole


def _frame_parts(axes: Any, k: int) -> None:
    """In each map of a mosaic, frame the part of the window that is read from it."""
    from matplotlib.patches import Rectangle

    own, side = POINTS / k, POINTS + GAP
    for i in range(k):
        for j in range(k):
            corner = (j * (side + own) - 0.5, i * (side + own) - 0.5)
            axes.add_patch(Rectangle(corner, own, own, fill=False, edgecolor="#39d3ff", linewidth=0.9))


def _frame_window(axes: Any, window: Tensor, size: tuple[int, int]) -> None:
    """Draw the window, dashed, also where it extends beyond the image."""
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = (window - 0.5).tolist()  # the centre of matplotlib's first pixel is 0
    axes.add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=FAINT, linewidth=1.2, linestyle="--")
    )
    axes.set_xlim(min(-0.5, x1), max(size[1] - 0.5, x2))
    axes.set_ylim(max(size[0] - 0.5, y2), min(-0.5, y1))
