"""JSON files of a run and next to it: read whole, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from abstractvision_batch.errors import StorageError
from abstractvision_batch.storage.json_file import MAX_BYTES, parse_json, read_json, read_local_json
from abstractvision_batch.storage.store import open_store


def test_a_file_of_the_largest_size_is_read_and_a_larger_one_is_refused(tmp_path: Path) -> None:
    whole = b'{"a": 1}'.ljust(MAX_BYTES)
    (tmp_path / "run.json").write_bytes(whole)
    store = open_store(str(tmp_path))

    assert read_json(store, "run.json", hint="write it again") == {"a": 1}
    assert read_local_json(tmp_path / "run.json") == {"a": 1}

    (tmp_path / "run.json").write_bytes(whole + b" ")
    with pytest.raises(StorageError, match=r"run\.json: larger than \d+ MiB, .* \(write it again\)"):
        read_json(store, "run.json", hint="write it again")
    with pytest.raises(ValueError, match=r"larger than \d+ MiB"):
        read_local_json(tmp_path / "run.json")


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
def test_sixty_four_levels_are_read_and_one_more_is_refused(opened: str, closed: str) -> None:
    inner = '"x"' if closed == "}" else ""

    assert parse_json(opened * 64 + inner + closed * 64)
    for depth in (65, 100_000):
        with pytest.raises(ValueError, match="nested"):
            parse_json(opened * depth + inner + closed * depth)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "", "{", "\xff"])
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  its words are the parser's
        parse_json(text)
