"""Figures for people: a table for the terminal, and plots of precision and recall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from instancefcn.evaluation.coco import MAX_DETECTIONS, NAMES, RECALLS, THRESHOLDS, CocoResult, Kind
from instancefcn.evaluation.proposals import AR_NAMES, ProposalResult
from instancefcn.files import atomic_write
from instancefcn.images.fonts import families, legible

INK, FAINT = "#222222", "#b8bec8"


def format_figure(value: float | None) -> str:
    """A figure from 0 to 1 with three decimals; "-" where it is not defined."""
    return "-" if value is None else f"{value:.3f}"


def table(metrics: dict[str, Any]) -> str:
    """The figures of `evaluate` as aligned plain text: all classes, the recall of proposals where it was
    measured, then each class.
    """
    lines = [f"{'':<24}" + "".join(f"{name:>8}" for name in NAMES)]
    for kind in ("mask", "box"):
        lines.append(f"{kind:<24}" + "".join(f"{format_figure(metrics[kind][name]):>8}" for name in NAMES))
    if (most := metrics.get("attainable")) is not None and round(most, 3) < 1:
        lines.append(
            f"Only the best {MAX_DETECTIONS} of a class count in an image, and some images hold more: perfect"
            f" predictions would have {format_figure(most)}."
        )
    if metrics.get("limited_images"):
        lines.append(
            f"Images that may hold more than the limit of {metrics['max_objects']} objects:"
            f" {metrics['limited_images']}; raise the limit with --max-objects."
        )
    at_half, at_seven = (format_figure(metrics["voc"][name]) for name in ("mAP50", "mAP70"))
    lines += [
        "",
        f"VOC mAP^r (11 points)   at 0.5: {at_half}   at 0.7: {at_seven}",
    ]
    if "proposals" in metrics:
        masks = metrics["proposals"]
        lines += ["", f"{'proposals, any class':<24}" + "".join(f"{name:>8}" for name in AR_NAMES)]
        for kind, figures in (("mask", masks), ("box", masks["box"])):
            row = "".join(f"{format_figure(figures[name]):>8}" for name in AR_NAMES)
            lines.append(f"{kind:<24}{row}")
    lines += ["", f"{'class':<24}{'mask AP':>10}{'AP50':>8}{'AP75':>8}{'box AP':>10}"]
    for name, figures in metrics["per_class"].items():
        mask, box = figures["mask"], figures["box"]
        row = (
            f"{format_figure(mask['AP']):>10}{format_figure(mask['AP50']):>8}{format_figure(mask['AP75']):>8}"
        )
        lines.append(f"{name[:23]:<24}{row}{format_figure(box['AP']):>10}")
    lines += ["", f"{metrics['images']} images"]
    if "seconds_per_image" in metrics:
        lines[-1] += f", {metrics['seconds_per_image']:.3f} s each (without decoding)"
    return "\n".join(lines)


def plot_precision_recall(result: CocoResult, class_names: tuple[str, ...], path: Path) -> None:
    """Write precision against recall as a PNG: each class at mask IoU 0.5, and the mean over the classes at
    several IoUs.
    """
    import matplotlib

    names = tuple(legible(name, f"class {label}") for label, name in enumerate(class_names, 1))
    with matplotlib.rc_context({"font.family": families(names)}), atomic_write(path) as temporary:
        _precision_recall(result, names).savefig(temporary, dpi=130)


def _precision_recall(result: CocoResult, class_names: tuple[str, ...]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    shown = [label for label in range(len(class_names)) if not np.isnan(result.precision[0, :, label]).all()]
    shown.sort(key=lambda label: -result.precision[0, :, label].mean())
    named = shown if len(shown) <= 12 else [*shown[:6], *shown[-6:]]
    colours = {label: f"C{index % 10}" for index, label in enumerate(named)}
    for label in shown:
        curve = result.precision[0, :, label]
        text = f"{class_names[label]}  {curve.mean():.2f}" if label in colours else None
        left.plot(
            RECALLS,
            curve,
            color=colours.get(label, FAINT),
            lw=1.6 if text else 0.7,
            label=text,
            zorder=2 if text else 1,
        )
    left.set_title(
        "Every class at mask IoU 0.5" + ("" if len(named) == len(shown) else " (best and worst six named)")
    )
    for index in (0, 3, 5, 7, 9):
        if shown:
            mean = result.precision[index][:, shown].mean(1)
            shade = str(0.15 + 0.06 * index)
            right.plot(
                RECALLS, mean, color=shade, lw=2, label=f"IoU {THRESHOLDS[index]:.2f}  {mean.mean():.2f}"
            )
    right.set_title(f"Mean over the classes; mask AP {format_figure(result.summary['AP'])}")
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall")
        _finish(axes, "lower left", "AP")
    left.set_ylabel("precision")
    return figure


def plot_recall(result: ProposalResult, path: Path) -> None:
    """Write the recall of proposals as a PNG, masks solid and boxes dashed: against IoU for 10, 100 and 1000
    proposals per image, and its mean over the IoUs (AR) against their number.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    lines: tuple[tuple[Kind, str], ...] = (("mask", "-"), ("box", "--"))
    for kind, line in lines:
        recall = result.recall[kind]
        if np.isnan(recall).any():
            continue  # no objects
        average = recall.mean(0)
        for colour, count in zip(("C0", "C1", "C2"), (10, 100, 1000), strict=True):
            index = int(np.flatnonzero(result.counts == count)[0])
            text = f"{kind}, {count}  {average[index]:.2f}"
            left.plot(result.thresholds, recall[:, index], line, color=colour, lw=1.6, label=text)
        text = f"{kind}  {average[-1]:.2f}"
        right.plot(result.counts, average, line, color=INK, lw=1.6, marker="o", ms=4, label=text)
    left.set(xlim=(result.thresholds[0], result.thresholds[-1]), ylim=(0, 1.02), xlabel="IoU")
    left.set(title="The best 10, 100 and 1000 proposals of every image", ylabel="recall")
    right.set_xscale("log")
    right.set_xticks([1, 10, 100, 1000], labels=["1", "10", "100", "1000"])
    right.set(xlim=(1, result.counts[-1]), xlabel="proposals per image")
    right.set_title(f"Mean over the IoUs; mask AR@100 {format_figure(result.summary['AR@100'])}")
    _finish(left, "lower left", "AR")
    _finish(right, "upper left", f"AR@{result.counts[-1]}")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)


def _finish(axes: Any, corner: str, title: str) -> None:
    """Apply the style of all panels, and a legend where there are lines."""
    axes.grid(color="#e6e8ec", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    if axes.get_lines():
        legend = axes.legend(frameon=False, fontsize=9, loc=corner, title=title, title_fontsize=9)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a class name may hold dollar signs
