"""What the documentation says: its fenced blocks, and the commands in them and in its sentences."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("instancefcn", "python", "pip", "make", "curl")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page and line, the language, the file that it is an excerpt of ("": none)."""

    page: str
    line: int
    language: str
    title: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command line, continued lines joined; without its comment."""

    page: str
    line: int
    text: str

    @property
    def words(self) -> list[str]:
        """As a shell would split it."""
        return shlex.split(self.text, comments=True)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def pages() -> list[str]:
    """Every page, from the root of the repository."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page. Raises ValueError for one that is not closed."""
    found: list[Block] = []
    start, head, inside = 0, "", []
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.startswith("```"):
            inside.append(line)
        elif start == 0:
            start, head, inside = number, line[3:].strip(), []
        else:
            title = re.search(r'title="([^"]+)"', head)
            language = head.split(" ")[0]
            found.append(Block(page, start, language, title[1] if title else "", "\n".join(inside) + "\n"))
            start = 0
    if start:
        raise ValueError(f"{page}:{start}: the fence is not closed")
    return found


def commands(block: Block) -> Iterator[Command]:
    """The command lines of a block of the language "sh"."""
    text, start = "", 0
    for number, line in enumerate(block.text.splitlines(), start=block.line + 1):
        start = start if text else number
        text += line.removesuffix("\\")
        if not line.endswith("\\"):
            bare = re.sub(r"\s+#.*|^#.*", "", text).strip()
            if bare:
                yield Command(block.page, start, re.sub(r"\s+", " ", bare))
            text = ""


def mentioned(page: str) -> Iterator[Command]:
    """Commands that stand in the sentences of a page, as code."""
    text = (ROOT / page).read_text(encoding="utf-8")
    # Fences go, their lines stay, so that the numbers of lines are right.
    text = re.sub(r"^```.*?^```", lambda fence: "\n" * fence[0].count("\n"), text, flags=re.M | re.S)
    for found in re.finditer(rf"`((?:{'|'.join(PROGRAMS)})\s[^`]+)`", text):
        yield Command(page, text.count("\n", 0, found.start()) + 1, re.sub(r"\s+", " ", found[1]))
