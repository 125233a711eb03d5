"""What it brings that votes reach beyond the survivor's box: AP of one model both ways.

python benchmarks/extent.py DATA --model fcis-animals7 [--split val] [--json FILE]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import instancefcn
from instancefcn.evaluation.report import format_figure
from instancefcn.ops.voting.operator import Extent
from results import write_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--model", default="fcis-animals7")
    parser.add_argument("--split", default="val")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    predictor = instancefcn.load(arguments.model, precision="32")
    figures = {}
    for extent in get_args(Extent):
        predictor.network.head = replace(predictor.network.head, extent=extent)
        figures[extent] = instancefcn.evaluate(arguments.data, predictor, split=arguments.split, tile=None)
    columns: list[tuple[Literal["mask", "box"], str]] = [
        ("mask", "AP"),
        ("mask", "AP50"),
        ("mask", "AP75"),
        ("box", "AP"),
    ]
    print(f"{'votes reach':<14}" + "".join(f"{f'{kind} {name}':>11}" for kind, name in columns))
    for extent, metrics in figures.items():
        print(
            f"{extent:<14}" + "".join(f"{format_figure(metrics[kind][name]):>11}" for kind, name in columns)
        )
    if arguments.json is not None:
        write_result(arguments.json, figures)


if __name__ == "__main__":
    main()
