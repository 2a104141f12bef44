"""What workers of a run agree on by a file, and rows of running shards added up."""

from __future__ import annotations

from pathlib import Path

import pytest

from abstractvision_batch.errors import StorageError
from abstractvision_batch.execute.progress import RunningRows
from abstractvision_batch.execute.run_server import read_server
from abstractvision_batch.storage.store import open_store


def test_a_note_on_the_server_that_is_no_object_is_damage(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    assert read_server(store) is None

    store.put("server.json", b'{"kind": "x"}')
    assert read_server(store) == {"kind": "x"}

    store.put("server.json", b'["x"]')
    with pytest.raises(StorageError, match=r"server\.json: damaged"):
        read_server(store)


def test_rows_of_running_shards_add_up_and_those_of_a_done_one_are_forgotten() -> None:
    rows = RunningRows()
    rows.replace({0: (3, 1), 1: (5, 2)})
    assert rows.total == (8, 3)

    rows.drop(0)
    rows.drop(7)
    assert rows.total == (5, 2)
