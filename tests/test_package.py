"""What anybody relies on before the first image: quick help, lazy names, versions, bundled files."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from PIL import Image

import instancefcn

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "torch",
    "torchvision",
    "numba",
    "timm",
    "matplotlib",
    "onnx",
    "fastapi",
    "uvicorn",
    "ray",
    "pyarrow",
)


def python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "verb",
    [
        [],
        ["predict"],
        ["propose"],
        ["bulk"],
        ["demo"],
        ["train"],
        ["eval"],
        ["check"],
        ["convert"],
        ["convert-weights"],
        ["export"],
        ["app"],
        ["bench", "predict"],
    ],
    ids=str,
)
def test_help_imports_nothing_heavy(verb: list[str]) -> None:
    out = python(
        "import sys\n"
        "from instancefcn.cli.main import app\n"
        "try:\n"
        f"    app({[*verb, '--help']!r})\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0, stop.code\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    assert "Usage" in out
    assert out.splitlines()[-1] == "heavy: []"


def test_import_imports_nothing_heavy_until_a_name_is_used() -> None:
    out = python(
        "import sys, instancefcn\n"
        "dir(instancefcn)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
        "print(instancefcn.Instances.__name__, 'torch' in sys.modules)\n"
    )
    assert out.splitlines() == ["[]", "Instances True"]


@pytest.mark.parametrize("name", [name for name in instancefcn.__all__ if name != "__version__"])
def test_public_names_exist(name: str) -> None:
    assert callable(getattr(instancefcn, name))
    assert name in dir(instancefcn)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = instancefcn.nothing_of_the_kind


def test_torch_is_bounded_from_below_only() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {line.split(">=")[0]: line for line in project["dependencies"]}
    assert bounds["torch"] == "torch>=2.11"
    assert bounds["torchvision"] == "torchvision>=0.26"
    assert project["requires-python"] == ">=3.11"


def test_the_version_is_in_the_changelog_and_the_citation() -> None:
    for name, line in (("CHANGELOG.md", "## {}"), ("CITATION.cff", "version: {}\n")):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert f"\n{line.format(instancefcn.__version__)}" in text, name


def test_demo_photographs_are_small_attributed_and_sound() -> None:
    folder = files("instancefcn") / "assets" / "demo"
    images = [entry for entry in folder.iterdir() if entry.name.endswith(".jpg")]
    assert 5 <= len(images) <= 6
    assert sum(len(entry.read_bytes()) for entry in images) <= 1_000_000
    attribution = (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in attribution
    for entry in images:
        assert f"`{entry.name}`" in attribution
        with entry.open("rb") as file, Image.open(file) as image:
            image.load()
            assert max(image.size) <= 640
