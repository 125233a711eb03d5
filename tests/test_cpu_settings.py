"""What the command line sets before torch is loaded, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from instancefcn.cpu_settings import CHOSEN, SPIN


def settings_after(code: str, **given: str) -> dict[str, str]:
    """What a fresh interpreter's environment says about OpenMP after it ran `code`."""
    clean = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    end = (
        "\nimport os, sys\n"
        f"print({{n: os.environ[n] for n in {CHOSEN!r} if n in os.environ}}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + end], env=clean | given, capture_output=True, text=True, check=True
    )
    found: dict[str, str] = eval(done.stderr.splitlines()[-1])
    return found


RUN = "from instancefcn.cpu_settings import set_up_cpu; set_up_cpu()"


def test_threads_wait_briefly() -> None:
    assert settings_after(RUN) == SPIN


@pytest.mark.parametrize("name", CHOSEN)
def test_what_the_user_sets_stays(name: str) -> None:
    assert settings_after(RUN, **{name: "7"}) == {name: "7"}


def test_the_package_sets_nothing() -> None:
    assert settings_after("import instancefcn") == {}


def test_every_verb_is_set_up_before_torch_is_loaded() -> None:
    code = (
        "import sys\n"
        "from instancefcn import cpu_settings\n"
        "from instancefcn.cli import main\n"
        "before = []\n"
        "set_up = main.set_up_cpu\n"
        "main.set_up_cpu = lambda: (before.append('torch' in sys.modules), set_up())\n"
        "try:\n"
        "    main.app(['predict', 'no-such-file.jpg'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "assert before == [False], before\n"
    )
    assert settings_after(code) == SPIN
