"""What the pages quote is what the sources say."""

from __future__ import annotations

import re
import sys
import textwrap
from importlib import import_module

import pytest

from documented import ROOT, blocks, pages
from instancefcn.models import zoo

LANGUAGES = {"sh", "bash", "python", "text", "json", "yaml", "math"}
QUOTED = [(block.page, block.line) for page in pages() for block in blocks(page) if block.title]


@pytest.mark.parametrize("page", pages())
def test_every_fence_says_its_language(page: str) -> None:
    unknown = [block.line for block in blocks(page) if block.language not in LANGUAGES]
    assert unknown == [], f"{page}: fences begin with one of {sorted(LANGUAGES)}"
    # A block that is merely indented would escape the tests of commands.
    indented = [
        line for line in (ROOT / page).read_text().splitlines() if line.startswith("    instancefcn ")
    ]
    inside = [line for block in blocks(page) for line in block.text.splitlines()]
    assert [line for line in indented if line not in inside] == []


@pytest.mark.parametrize(("page", "line"), QUOTED)
def test_excerpts_are_in_their_files(page: str, line: int) -> None:
    (block,) = (block for block in blocks(page) if block.line == line)
    wanted = block.text.rstrip("\n").splitlines()
    source = (ROOT / block.title).read_text(encoding="utf-8").splitlines()
    windows = (source[first : first + len(wanted)] for first in range(len(source)))
    assert any(textwrap.dedent("\n".join(window)).splitlines() == wanted for window in windows), (
        f"{page}:{line}: {block.title} has no such lines any more"
    )


@pytest.mark.parametrize("folder", ["src", "benchmarks", "tools", "examples"])
def test_sources_name_files_that_are_there(folder: str) -> None:
    named = re.compile(r"\b(?:benchmarks|tools|docs|tests|examples)/[\w/-]+\.(?:py|md)\b")
    sources = sorted((ROOT / folder).rglob("*.py"))
    found = {(path, name) for path in sources for name in named.findall(path.read_text(encoding="utf-8"))}
    assert sources
    assert [f"{path}: {name}" for path, name in sorted(found) if not (ROOT / name).exists()] == []


def test_the_command_reference_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in zoo.SPECS if name.startswith("tiny")]:  # of other tests
        monkeypatch.delitem(zoo.SPECS, name)
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import command_reference

    monkeypatch.delitem(sys.modules, "command_reference")
    written = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == command_reference.reference(), "run python tools/command_reference.py"


@pytest.mark.parametrize("module", ["instancefcn", "instancefcn.ops"])
def test_the_api_page_lists_every_public_name(module: str) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(rf"^::: {re.escape(module)}\.(\w+)$", page, flags=re.M)
    assert sorted(listed) == sorted(import_module(module).__all__)
