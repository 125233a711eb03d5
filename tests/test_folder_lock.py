"""Two processes never write to one folder, and a process that was killed keeps nobody out."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from instancefcn.errors import OutputError
from instancefcn.folder_lock import check_not_locked, only_writer

HOLDER = """
import sys, time
from instancefcn.folder_lock import only_writer
with only_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
def test_another_process_is_refused_until_the_holder_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(OutputError) as caught, only_writer(tmp_path):
                pass
            with pytest.raises(OutputError, match=f"process {holder.pid}"):
                check_not_locked(tmp_path)
            assert f"process {holder.pid} on {socket.gethostname()}" in str(caught.value)
            assert str(tmp_path) in str(caught.value)
        finally:
            holder.kill()
    assert [path.name for path in tmp_path.iterdir()] == [".instancefcn.lock"]  # what a crash leaves
    check_not_locked(tmp_path)
    with only_writer(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_second_call_in_this_process_is_refused_too(tmp_path: Path) -> None:
    with only_writer(tmp_path / "new" / "out"):
        with (
            pytest.raises(OutputError, match=f"process {os.getpid()} on"),
            only_writer(tmp_path / "new" / "out"),
        ):
            pass
        with only_writer(tmp_path / "new" / "other"):
            pass
        (tmp_path / "new" / "out" / "result.txt").write_text("kept")
    assert [path.name for path in (tmp_path / "new").rglob("*")] == ["out", "result.txt"]
    with only_writer(tmp_path / "new" / "out"):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"), only_writer(tmp_path / "file" / "out"):
        pass
