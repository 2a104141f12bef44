"""Outputs that cannot hold a run are one line, whatever their file system makes of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import StorageError
from abstractvision_batch.storage.local import LocalStore
from abstractvision_batch.verbs.diff import diff
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob

OUTPUTS = [
    *("hf://datasets/a/b", "memory://", "FILE://", "simplecache::memory://a", "filecache::s3://a/b", "nosuch://a"),
    *(
        "a" * 300,
        "ftp://127.0.0.1:9/a",
        "sftp://127.0.0.1:9/a",
        "github://a:b@main/c",
        "http://127.0.0.1:9/a",
        "dask://a",
    ),
    *(
        "git://a",
        "zip://a.zip",
        "reference://a",
        "webhdfs://127.0.0.1:9/a",
        "smb://127.0.0.1:9/a",
        "s3://",
        "://",
        "x::y",
    ),
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("path", OUTPUTS)
def test_an_output_that_cannot_hold_a_run_is_one_line(
    path: str, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVBATCH_STORE_PATIENCE_S", "0.1")
    monkeypatch.chdir(tmp_path)
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(make_job(output={"path": path})))

    for command in (["run", str(spec), "--quiet"], ["status", path]):
        ended = CliRunner().invoke(app, command)
        assert isinstance(ended.exception, SystemExit), ended.exception
        assert ended.exit_code in (2, 3, 4), (command, ended.stderr)
        assert len([line for line in ended.stderr.splitlines() if "nothing was started" not in line]) == 1, ended.stderr


@pytest.mark.sampled(6)
@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.EXDEV, errno.EMLINK, errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_refuses_links_in_any_way_holds_a_run(
    number: int, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)

    result = run(make_job())

    assert (result.exit_code, result.succeeded) == (0, 20)
    store = LocalStore(Path(result.path))
    assert store.put_if_absent("run.json", b"other") is False
    assert store.probe_conditional_put() is False


def test_a_disk_that_fails_while_it_is_probed_is_a_storage_error_and_not_one_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "run")
    assert store.probe_conditional_put() is True

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "link", fail)

    with pytest.raises(StorageError, match="Input/output error"):
        store.probe_conditional_put()
    with pytest.raises(StorageError, match="Input/output error"):
        store.put_if_absent("run.json", b"other")
    assert store.list("") == []


def test_a_picture_that_cannot_be_decoded_is_a_difference_that_names_its_file_and_row(
    make_job: MakeJob, tmp_path: Path
) -> None:
    there = run(make_job())
    here = run(make_job(output={"path": str(tmp_path / "other")}, params={"width": 32, "height": 24, "seed": 8}))
    broken = sorted((tmp_path / "other" / "artifacts" / "00000").iterdir())[0]
    broken.write_bytes(b"\x89PNG\r\n" + b"no picture" * 20)

    report = diff(there.path, here.path)

    notes = [pair.comparison.note for pair in report.pairs if pair.comparison is not None and pair.comparison.note]
    assert (report.exit_code, len(report.pairs), len(notes)) == (1, 20, 1)
    assert str(broken) in notes[0]
    assert broken.name.split("-")[0] in notes[0]
