from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instancefcn.published import conversion as convert

Run = Callable[..., Any]


def test_says_what_was_converted(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(source: Path, target: Path) -> convert.Converted:
        target.write_bytes(bytes(2_000_000))
        return convert.Converted("ChainerCV's .npz", "COCO", 80, 12, ("a", "b", "c", "d"))

    monkeypatch.setattr(convert, "convert_weights", fake)
    result = run("convert-weights", "in.npz", "out.safetensors")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "out.safetensors: fcis_resnet101_published for COCO (80 classes, 12 anchors), from ChainerCV's .npz;"
        " 2 MB",
        "not needed for inference and left out: 4 arrays (a, b, c, ...)",
    ]


def test_a_foreign_file_is_refused_without_a_traceback(run: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", weights=np.zeros(3))
    result = run("convert-weights", "in.npz", "out.safetensors")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: in.npz: not an FCIS-ResNet-101: head/cls_seg/W, head/cls_seg/b, ")
    assert not (tmp_path / "out.safetensors").exists()
