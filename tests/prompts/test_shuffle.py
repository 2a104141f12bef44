from __future__ import annotations

from collections.abc import Iterator

from abstractvision_batch.prompts.prompts import SourceRow
from abstractvision_batch.prompts.shuffle import shuffle_rows


def rows(count: int) -> Iterator[SourceRow]:
    places = ["a.txt", "b.txt"]
    for number in range(count):
        yield SourceRow(places[number % 2], number, "/data", number, {"prompt": f"p{number}", "tags": [number, None]})


def test_many_rows_come_in_the_order_in_which_few_do() -> None:
    in_memory = list(shuffle_rows(rows(2000), 7))

    assert list(shuffle_rows(rows(2000), 7, in_memory=100)) == in_memory
    assert in_memory != list(rows(2000))
    assert sorted(in_memory, key=lambda row: row.number) == list(rows(2000))


def test_rows_beyond_what_is_wanted_are_never_sorted() -> None:
    shuffled = shuffle_rows(rows(1000), 1, in_memory=10)

    assert next(shuffled) == next(shuffle_rows(rows(1000), 1))
    del shuffled
