"""Scratch folders: swept when their process was killed, kept while it lives, and a full disk is one line."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from abstractvision_batch.errors import StorageError
from abstractvision_batch.runs.layouts.spool import Spool
from abstractvision_batch.storage.scratch import scratch_folder, temporary_disk

HOLD = """
import sys, time
from abstractvision_batch.storage.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "plan.parquet").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    time.sleep(60)
"""
USE = "from abstractvision_batch.storage.scratch import scratch_folder\nwith scratch_folder(): pass"


def start(tmp_path: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert process.stdout is not None
    with process.stdout:
        return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_left_is_removed_by_the_next_and_nothing_else(tmp_path: Path) -> None:
    kept = tmp_path / "victim"
    kept.mkdir()
    (kept / "file").write_text("mine")
    (tmp_path / "avbatch-scratch-link").symlink_to(kept)
    (tmp_path / "avbatch-fault-1.txt").write_text("a traceback")
    killed, left = start(tmp_path)
    living, held = start(tmp_path)
    (left / "inside").symlink_to(kept)
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    try:
        subprocess.run([sys.executable, "-c", USE], check=True, env={**os.environ, "TMPDIR": str(tmp_path)})

        assert not left.exists()
        assert (held / "plan.parquet").exists()
        assert (kept / "file").read_text() == "mine"
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"victim", "avbatch-scratch-link", "avbatch-fault-1.txt", held.name}
    finally:
        living.kill()
        living.wait()


def test_a_full_temporary_disk_is_one_line_however_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full takes nothing, and says so when a buffer is flushed, as when a file is closed."""
    full = OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=r"No space left on device \(make room"), scratch_folder():
        raise full
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "w+b"))  # noqa: PTH123, SIM115
    with pytest.raises(StorageError, match="No space left"), Spool() as spool:
        spool.put("a", b"x" * 100_000)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EROFS, errno.EMFILE])
def test_a_temporary_folder_that_cannot_be_used_is_one_line(number: int) -> None:
    with pytest.raises(StorageError, match="let TMPDIR name another folder"), temporary_disk():
        raise OSError(number, os.strerror(number))
