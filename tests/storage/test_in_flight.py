"""Many requests at once, answered in order; and row groups of a large file from few of them."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pytest

from abstractvision_batch.errors import StorageError
from abstractvision_batch.storage.in_flight import IN_FLIGHT, map_in_flight
from abstractvision_batch.storage.parquet import SealingWriter
from abstractvision_batch.storage.row_groups import GAP_BYTES, iter_row_groups, read_footer
from abstractvision_batch.storage.store import open_store
from tests.support.counted_store import CountedFileSystem


def test_answers_come_in_the_order_of_asking_though_later_ones_are_there_first() -> None:
    others = threading.Event()

    def act(item: int) -> int:
        if item == 0:
            others.wait(10)
        elif item == IN_FLIGHT - 1:
            others.set()
        return item * item

    assert list(map_in_flight(range(40), act)) == [(item, item * item) for item in range(40)]


def test_no_more_is_asked_for_than_fits_in_flight() -> None:
    asked: list[int] = []
    answers = map_in_flight(iter(range(1000)), asked.append)

    for _ in range(3):
        next(answers)

    assert max(asked) < 3 + IN_FLIGHT
    del answers


def test_what_an_action_raises_is_raised_in_its_place() -> None:
    def act(item: int) -> int:
        if item == 2:
            raise StorageError("no")
        return item

    answers = map_in_flight(range(5), act)

    assert [next(answers), next(answers)] == [(0, 0), (1, 1)]
    with pytest.raises(StorageError):
        next(answers)


@pytest.mark.parametrize("columns", [None, ["a"], ["a", "z"], ["far", "nested"]])
def test_row_groups_are_read_as_they_were_written(tmp_path: Path, columns: list[str] | None) -> None:
    text = "".join(chr(33 + number % 90) for number in range(GAP_BYTES // 100))
    table = pa.table(
        {
            "a": list(range(300)),
            "nested": [[number, None] for number in range(300)],
            "filler": [f"{number}{text}" for number in range(300)],
            "z": ["x", None, "y"] * 100,
            "far": [0.5] * 300,
        }
    )
    with SealingWriter(tmp_path / "t.parquet", table.schema, compression="none") as writer:
        writer.write_table(table, row_group_size=100)
    store = open_store(f"counted://{tmp_path}")
    footer = read_footer(store, "t.parquet")
    CountedFileSystem.requests.clear()

    read = list(iter_row_groups(store, "t.parquet", columns, footer=footer, groups=[2, 0]))

    wanted = table if columns is None else table.select(columns)
    assert [found.to_pylist() for found in read] == [wanted[200:].to_pylist(), wanted[:100].to_pylist()]
    assert CountedFileSystem.requests == {"GET": 2 if columns in (None, ["a"]) else 4}
