"""Containers by themselves: where members lie, however many, equal or large they are."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abstractvision_batch.errors import StorageError
from abstractvision_batch.runs.columns import PLAN_SCHEMA
from abstractvision_batch.runs.layouts import parquet_container
from abstractvision_batch.runs.layouts.containers import MEDIA_COLUMNS, Container, Member, OpenContainer
from abstractvision_batch.runs.layouts.parquet_container import ParquetContainer
from abstractvision_batch.runs.layouts.spool import Spool
from abstractvision_batch.runs.layouts.tar_container import TarContainer

SCHEMA = pa.schema([*PLAN_SCHEMA, ("score", pa.float64()), ("scores", pa.list_(pa.float64()))])
each_container = pytest.mark.parametrize("open_container", [TarContainer, ParquetContainer])


def row(number: int, **columns: Any) -> dict[str, Any]:
    empty = dict.fromkeys([*SCHEMA.names, *MEDIA_COLUMNS])
    return empty | {"index": number, "request_id": f"r{number}", "task": "text_to_image", "prompt": "a fox"} | columns


def member(data: bytes, name: str = "a.png") -> Member:
    return Member(name, data, hashlib.sha256(data).hexdigest())


def write(container: Container, pictures: Sequence[bytes]) -> list[int]:
    for number, data in enumerate(pictures):
        container.add(row(number), [member(data, f"r{number}.png")])
    return container.finish()


@each_container
def test_equal_nested_empty_and_long_members_are_found_where_they_lie(
    open_container: OpenContainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row groups end after 3,000 bytes here; members share beginnings, or hold one another."""
    monkeypatch.setattr(parquet_container, "GROUP_BYTES", 3000)
    monkeypatch.setattr(parquet_container, "WINDOW_BYTES", 131)
    long = os.urandom(2_500_000)
    pictures = [b"x" * 100, b"x" * 100, b"x" * 99 + b"y", b"", long, b"x", long[:1000], b"PAR1", long + long]

    offsets = write(open_container(tmp_path / "c", SCHEMA), pictures)

    data = (tmp_path / "c").read_bytes()
    assert [data[at : at + len(picture)] for at, picture in zip(offsets, pictures, strict=True)] == pictures
    assert offsets == sorted(offsets)


@each_container
def test_equal_rows_make_equal_bytes(open_container: OpenContainer, tmp_path: Path) -> None:
    for name in ("one", "other"):
        write(open_container(tmp_path / name, SCHEMA), [b"1", b"22"])

    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_row_groups_of_pictures_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_container, "GROUP_BYTES", 1000)
    write(ParquetContainer(tmp_path / "c", SCHEMA), [b"x"] * 250 + [b"y" * 999] * 3)

    metadata = pq.read_metadata(tmp_path / "c")
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [100, 100, 51, 2]


def test_numbers_that_json_lacks_are_null_at_any_depth_of_a_tars_rows(tmp_path: Path) -> None:
    container = TarContainer(tmp_path / "c", SCHEMA)
    container.add(row(0, score=float("nan"), scores=[1.0, float("inf")], prompt=None), [member(b"x", "r0.png")])
    container.finish()

    with tarfile.open(tmp_path / "c") as tar:
        texts = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    assert json.loads(texts["r0.json"])["scores"] == [1.0, None]
    assert json.loads(texts["r0.json"])["score"] is None
    assert texts["r0.txt"] == b""


def test_a_spool_gives_back_what_it_was_given_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Spool() as spool:
        spool.put("a", b"one")
        spool.put("b", b"")
        spool.put("a", b"once more")

        assert (spool.read("a"), spool.read("b")) == (b"once more", b"")
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(StorageError, match="c: is not in the spool"):
            spool.read("c")


def test_a_temporary_folder_that_cannot_be_written_is_one_line_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))

    with pytest.raises(
        StorageError, match=r"gone: No such file or directory \(make room, or let TMPDIR name another folder\)"
    ):
        Spool()
