"""Every command that the documentation shows is run here, on small files under the names that it uses.

What is changed about a command so that it takes a second: see `shrunk`. What is only read, and why: `PARSED`.
A new command that does not run here fails: prepare what it needs in tests/doc_workspace.py, or list it with a
reason.
"""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from doc_workspace import SPECS, write_workspace
from documented import ROOT, Block, Command, blocks, commands, mentioned, pages
from instancefcn.cli.main import app
from instancefcn.inference import predictor as inference
from instancefcn.models import zoo

INSTALLS = "installs packages"
WHOLE = "the whole project's, minutes long; CI runs it"
BENCHMARK = "measures for minutes"
TRACED = "traces for up to half a minute; tests/export does it"
SHIPS = "writes a model into the package"
PARSED = {
    "pip install .": INSTALLS,
    "pip install '.[app]'": INSTALLS,
    "pip install '.[export]'": INSTALLS,
    "python -m venv .venv": "makes an environment",
    ". .venv/bin/activate": "enters it",
    "make demo": WHOLE,
    "make test": WHOLE,
    "make test-slow": WHOLE,
    "make test-all": WHOLE,
    "make lint": WHOLE,
    "make docs": WHOLE,
    ".ci/run": WHOLE,
    ".ci/oldest": WHOLE,
    "python tools/torture.py --kills 20": "kills for minutes; tests/test_faults.py does it briefly",
    "instancefcn export fcis-animals7 --dynamic": TRACED,
    "instancefcn export runs/mine --format torch-export": TRACED,
    "python tools/bundle_model.py runs/animals7/last.safetensors fcis-animals7 animals7": SHIPS,
    "python tools/bundle_model.py runs/objects/last.safetensors instancefcn-objects animals7": SHIPS,
    "python tools/bundle_model.py runs/general3/last.safetensors fcis-objects coco80 --sides 480 800": SHIPS,
    "python tools/bundle_model.py runs/nuclei/last.safetensors fcis-nuclei nuclei"
    " --sides 768 1280 --halfway 0.85": SHIPS,
}
"""Commands that are not run: their options and files are looked at instead."""

SMALLER = ("workers=0", "accelerator=cpu", "pretrained=false", "init=null", "sheets_every=0", "precision=32")
"""Settings of every training run here; its network is of `SPECS`, its length one epoch."""


class Parsed(Exception):
    """A script has understood its arguments."""


@cache
def command_of(words: tuple[str, ...]) -> tuple[Any, list[str]]:
    """The verb of `instancefcn WORDS...`, however nested, and the words behind it."""
    command, rest = typer.main.get_command(app), list(words)
    while rest and (found := getattr(command, "commands", {}).get(rest[0])) is not None:
        command, rest = found, rest[1:]
    return command, rest


def parse(command: Command, loose: bool = False) -> None:
    """Fail unless all programs, options, files and settings of a command exist.

    Args:
        loose: the command stands in a sentence: arguments may be left out.
    """
    program, *rest = command.words
    if program in READERS:
        READERS[program](rest, loose)
    else:
        assert (ROOT / program).is_file(), f"{command}: there is no {program}"


def parse_own(words: list[str], loose: bool) -> None:
    verb, rest = command_of(tuple(words))
    if rest == ["--help"]:
        return
    assert not hasattr(verb, "commands"), f"there is no verb {words}"
    try:
        with verb.make_context(verb.name, list(rest)) as context:
            options = context.params
    except Exception as error:
        if not loose or type(error).__name__ != "MissingParameter":
            raise
        return
    if verb.name == "train":
        from instancefcn.cli.train import parse_assignments
        from instancefcn.training.setup import make_config

        named = {"model": options["model"]} if options["model"] else {}
        settings = parse_assignments(options["set_"] or [])
        make_config(Path("nowhere"), False, {"data": "data", "out": "out", **named, **settings})


def parse_pip(words: list[str], _loose: bool) -> None:
    assert words[0] == "install"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words[1:]:
        found = re.fullmatch(r"(\.|instancefcn)(\[(\w+)\])?", word)
        assert found, f"pip install {word}: neither this package nor an extra of it"
        assert found[3] is None or found[3] in extras, f"there is no extra {found[3]}"


def parse_make(words: list[str], _loose: bool) -> None:
    rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    assert set(words) <= set(rules), f"make {words}: the Makefile has {rules}"


def parse_source(words: list[str], _loose: bool) -> None:
    assert words == [".venv/bin/activate"]


def parse_python(words: list[str], loose: bool) -> None:
    """A script of ours, up to where it has understood its arguments."""
    if words[:2] == ["-m", "venv"]:
        return
    script = ROOT / words[0]
    assert script.is_file(), f"there is no {words[0]}"
    if "argparse" not in script.read_text():
        assert words[1:] == [], f"{words[0]} takes no arguments"
        return
    understand = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *given: Any) -> Any:
        understand(self, *given)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(sys, "argv", words)
        patch.syspath_prepend(str(script.parent))
        if loose and words[1:] == []:
            return
        with pytest.raises(Parsed):
            runpy.run_path(str(script), run_name="__main__")


READERS: dict[str, Callable[[list[str], bool], None]] = {
    "instancefcn": parse_own,
    "pip": parse_pip,
    "make": parse_make,
    "python": parse_python,
    ".": parse_source,
}


# -- running


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "workspace"
    folder.mkdir()
    write_workspace(folder)
    return folder


@pytest.fixture(scope="module")
def server(prepared: Path) -> Iterator[str]:
    """The workspace's images over HTTP, under every name."""

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            return str(prepared / "photo.jpg")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the prepared folder, entered; small networks behind the names of models."""
    folder = tmp_path / "here"
    shutil.copytree(prepared, folder, symlinks=True)
    monkeypatch.chdir(folder)
    known = set(zoo.SPECS)
    for name, spec in SPECS.items():
        monkeypatch.setitem(zoo.SPECS, name, spec)
    yield folder
    for name in zoo.SPECS.keys() - known:  # a page shows how to add a model
        del zoo.SPECS[name]


def shrunk(words: list[str], server: str) -> list[str]:
    """The same command for a test: another server, another port, one epoch, one repetition."""
    verb, *rest = [re.sub(r"https?://example\.org", server, word) for word in words]
    if verb == "train":
        for length in ("--epochs", "--minutes"):
            rest = [word for word in rest if word not in (length, given(rest, length))]
        if "--resume" in rest:
            return [verb, *rest, "--epochs", "2"]
        shutil.rmtree(given(rest, "--out"), ignore_errors=True)
        return [verb, *rest, "--epochs", "1", *(f"--set={setting}" for setting in SMALLER)]
    if verb == "bench":
        return [verb, *rest, "--repeats", "1"]
    return [verb, *rest, "--port", "0"] if verb in ("app", "label") else [verb, *rest]


def given(words: list[str], option: str) -> str:
    """What stands behind an option; "" without it."""
    return words[words.index(option) + 1] if option in words else ""


def run_own(words: list[str], server: str, patch: pytest.MonkeyPatch) -> None:
    output = Path()
    if ">" in words:
        words, output = words[:-2], Path(words[-1])
    if words[0] in ("app", "label"):
        import uvicorn

        # The page itself is tested in tests/studio.
        patch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    result = CliRunner().invoke(app, shrunk(words, server))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    if output != Path():
        output.write_text(result.stdout)


def run_curl(words: list[str], _server: str, _patch: pytest.MonkeyPatch) -> None:
    """The request, put to the API without a server between."""
    from fastapi.testclient import TestClient

    from instancefcn.studio.api import build_api
    from instancefcn.studio.results import Kept
    from instancefcn.studio.site import workers

    assert words[0] == "--data-binary"
    address = re.fullmatch(r"http://127\.0\.0\.1:7860(/.*)", words[2])
    assert words[1].startswith("@")
    assert address
    finder, proposer, _ = workers("runs/first")
    answer = TestClient(build_api(finder, proposer, Kept())).post(
        address[1], content=Path(words[1][1:]).read_bytes()
    )
    assert answer.status_code == 200, answer.text
    assert "instances" in answer.json()


def run_python(words: list[str], _server: str, patch: pytest.MonkeyPatch) -> None:
    """A script of ours, in this process."""
    patch.setattr(sys, "argv", words)
    patch.syspath_prepend(str((ROOT / words[0]).parent))
    runpy.run_path(str(ROOT / words[0]), run_name="__main__")


RUNNERS: dict[str, Callable[[list[str], str, pytest.MonkeyPatch], None]] = {
    "instancefcn": run_own,
    "curl": run_curl,
    "python": run_python,
}


def run(command: Command, server: str) -> None:
    program, *rest = command.words
    assert "tools/bundle_model.py" not in rest, f"{command}: {SHIPS}: say so in PARSED"
    assert program in RUNNERS, f"{command}: nothing here runs {program}: teach it, or say in PARSED why not"
    with pytest.MonkeyPatch.context() as patch:
        RUNNERS[program](rest, server, patch)


def run_code(block: Block, server: str) -> None:
    """A block of Python, with the same changes as commands."""
    text = block.text.replace("https://example.org", server)
    text = re.sub(r"train=\d+, val=\d+", "train=4, val=2", text)
    text = re.sub(r"epochs=\d+", "epochs=1, workers=0, accelerator='cpu', pretrained=False, init=None", text)
    code = compile("\n" * block.line + text, block.page, "exec")
    exec(code, {"__name__": "__main__"})


PAGES = [page for page in pages() if any(block.language in ("sh", "python") for block in blocks(page))]


@pytest.mark.parametrize(
    "page", [page if page == "README.md" else pytest.param(page, marks=pytest.mark.slow) for page in PAGES]
)
def test_commands_of_a_page(
    page: str, workspace: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """In their order, as a reader would type them."""
    monkeypatch.setattr(inference, "load", cache(partial(inference.load)))  # each model is read once
    for block in blocks(page):
        if block.language == "python" and not block.title:
            run_code(block, server)
        elif block.language == "sh":
            for command in commands(block):
                try:
                    parse(command) if command.text in PARSED else run(command, server)
                except BaseException as error:
                    error.add_note(f"in {command}")
                    raise


@pytest.mark.parametrize("page", pages())
def test_commands_for_other_machines_exist(page: str) -> None:
    """Blocks of "bash" are for clusters, or run by a test of their own: our commands are parsed."""
    for block in blocks(page):
        for command in commands(block) if block.language == "bash" else ():
            words = [word for word in command.words if not word.startswith("$")]
            if "instancefcn" in words:
                ours = shlex.join(words[words.index("instancefcn") :])
                parse(Command(page, command.line, ours), loose=True)


@pytest.mark.parametrize("page", pages())
def test_commands_in_sentences_exist(page: str) -> None:
    for command in mentioned(page):
        parse(command, loose=True)


def test_the_list_of_what_is_only_parsed_names_nothing_that_is_gone() -> None:
    shown = {c.text for page in pages() for b in blocks(page) if b.language == "sh" for c in commands(b)}
    assert set(PARSED) <= shown, set(PARSED) - shown


@pytest.mark.parametrize(
    "text",
    [
        "instancefcn predict photos/ --tiles 3",
        "instancefcn segment photos/",
        "instancefcn train my-data --out runs/a --set epoch=3",
        "python tools/no_such_tool.py",
        "python benchmarks/ops.py --no-such-option",
        "pip install '.[apps]'",
        "make tests",
    ],
)
def test_what_does_not_exist_is_found(text: str) -> None:
    with pytest.raises((AssertionError, SystemExit, Exception)):
        parse(Command("page.md", 1, text))
