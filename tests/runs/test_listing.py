"""The state of a run that is not there, or whose record is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from abstractvision_batch.runs.listing import read_run_state
from abstractvision_batch.storage.store import open_store


@pytest.mark.parametrize(("record", "state"), [(None, "missing"), ("{", "broken"), ("{}", "broken")])
def test_a_run_that_cannot_be_read_has_no_rows(record: str | None, state: str, tmp_path: Path) -> None:
    if record is not None:
        (tmp_path / "run.json").write_text(record)

    found = read_run_state(open_store(str(tmp_path)))

    assert found.state == state
    assert (found.problem is None) == (state == "missing")
    assert (found.shards, found.shards_done, found.requests, found.attempts) == (0, 0, 0, 0)
    assert (found.succeeded, found.failed, found.superseded, found.not_run, found.cost_usd) == (0, 0, 0, 0, None)
