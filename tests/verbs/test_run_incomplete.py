"""A run that is not complete never ends with 0, whatever takes its files away while it goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import StorageError
from abstractvision_batch.execute.progress import Progress
from abstractvision_batch.text.to_json import to_json
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.finish import RunResult
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob


def run_while(job: dict[str, Any], happens: Callable[[Path], None], *, shards_done: int = 2) -> RunResult:
    """Run a job, with something that happens once so many shards are done."""
    path = Path(job["output"]["path"])
    happened: list[bool] = []

    def listen(now: Progress) -> None:
        if now.shards_done >= shards_done and not happened:
            happened.append(True)
            happens(path)

    return run(job, on_progress=listen)


def avbatch_run(job: dict[str, Any], tmp_path: Path, *more: str) -> Any:
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(job))
    return CliRunner().invoke(app, ["run", str(spec), *more])


class Listing(list[Any]):
    """Entries of a folder, as `os.scandir` gives them."""

    def __enter__(self) -> Any:
        return iter(self)

    def __exit__(self, *exc: object) -> None:
        """Nothing to close."""


def lose_a_part(path: Path) -> None:
    (path / "manifest" / "00000-a0.parquet").unlink()


def lose_all_parts(path: Path) -> None:
    for part in (path / "manifest").iterdir():
        part.unlink()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("lose", [lose_a_part, lose_all_parts])
@pytest.mark.parametrize("layout", ["files", "webdataset", "parquet"])
def test_parts_that_vanish_while_the_run_goes_on_make_it_incomplete_and_the_next_run_finishes_it(
    lose: Callable[[Path], None], layout: str, make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(output={"path": str(tmp_path / "run"), "layout": layout})

    result = run_while(job, lose)
    again = run(job)

    assert result.exit_code == to_json(result)["exit_code"] == 4
    assert result.not_done == to_json(result)["not_done"] > 0
    assert (result.manifest_path, result.stopped, result.interrupted) == (None, None, False)
    assert result.skipped >= 0
    assert result.incomplete_because is not None and str(result.not_done) in result.incomplete_because
    assert (again.exit_code, again.succeeded) == (0, 20)
    assert not [finding for finding in audit(again.path).findings if finding.kind != "orphan"]


def test_every_part_that_vanishes_before_the_merge_leaves_no_negative_count(make_job: MakeJob) -> None:
    result = run_while(make_job(), lose_all_parts, shards_done=5)

    assert (result.exit_code, result.not_done, result.skipped, result.generated) == (4, 20, 0, 20)


def test_a_record_that_vanishes_while_the_run_goes_on_is_one_line_and_the_next_run_writes_it_again(
    make_job: MakeJob,
) -> None:
    job = make_job()

    with pytest.raises(StorageError) as ended:
        run_while(job, lambda path: (path / "run.json").unlink())
    again = run(job)

    assert ended.value.exit_code == 4
    assert "run.json: was removed" in str(ended.value)
    assert again.exit_code == 0
    assert audit(again.path).findings == ()


def test_a_listing_that_is_late_ends_with_4_in_words_and_in_json(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some stores, and caches before them, list what was put a while later."""
    job = make_job()
    list_now = os.scandir

    def list_late(path: Any = ".") -> Any:
        if not str(path).endswith("/run/manifest"):
            return list_now(path)
        return Listing(entry for entry in list_now(path) if not entry.name.startswith("00004-a"))

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", list_late)
        said = avbatch_run(job, tmp_path, "--quiet", "--json")
        said_again = avbatch_run(job, tmp_path)
    again = avbatch_run(job, tmp_path, "--quiet", "--json")

    found = json.loads(said.stdout)
    assert said.exit_code == found["exit_code"] == 4
    assert (found["ok"], found["not_done"], found["manifest_path"]) == (False, 4, None)
    assert len(said.stderr.splitlines()) == 1
    assert said_again.exit_code == 4
    assert "4 not done yet" in said_again.stdout
    assert "nothing to do" not in said_again.stdout
    assert json.loads(again.stdout)["exit_code"] == again.exit_code == 0


def test_a_retry_of_a_run_that_is_not_complete_does_not_end_with_0(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    lose_a_part(tmp_path / "run")

    ended = CliRunner().invoke(app, ["retry", str(tmp_path / "run"), "--quiet"])

    assert ended.exit_code == 4
    assert len(ended.stderr.splitlines()) == 1


def test_a_budget_that_stops_the_run_is_1_however_much_is_left(make_job: MakeJob) -> None:
    budget = {"batch_size": 2, "shard_size": 4, "budget": {"requests": 8}}

    result = run(make_job(execution=budget))

    assert (result.exit_code, result.incomplete_because) == (1, None)
