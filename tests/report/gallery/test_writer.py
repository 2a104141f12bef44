"""What a gallery consists of: when it is written, what is in its files, and what is not."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from abstractvision_batch.report.gallery.columns import ColumnEncoder
from abstractvision_batch.report.gallery.sheets import TILE, ShardSheets, Span, draw_tile, sheet_name
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.storage.store import open_store
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.gallery import gallery
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob


def read_document(folder: Path) -> dict[str, Any]:
    text = (folder / "gallery/data/columns.js").read_text()
    document: dict[str, Any] = json.loads(text.removeprefix("AVB.load(").removesuffix(");\n"))
    return document


def unpack(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


def encode(values: list[Any], type_: Any) -> dict[str, Any]:
    encoder = ColumnEncoder("x", type_)
    for start in range(0, len(values), 3):
        encoder.add(pa.array(values[start : start + 3], type_))
    return encoder.finish()


def test_few_values_are_a_dictionary_and_codes() -> None:
    column = encode(["b", None, "a", "b", "c"], pa.string())

    values = json.loads(unpack(column["values"]))
    codes = np.frombuffer(unpack(column["codes"]), "<u1")
    assert [values[code] for code in codes] == ["b", None, "a", "b", "c"]


def test_many_numbers_stay_numbers_and_null_is_not_a_number() -> None:
    column = encode([*range(2000), None], pa.int64())

    numbers = np.frombuffer(unpack(column["numbers"]), "<f8")
    assert numbers[:-1].tolist() == list(range(2000)) and np.isnan(numbers[-1])


@pytest.mark.parametrize(
    ("values", "type_", "constant"),
    [([3, 3], pa.int64(), 3), ([None, None], pa.float64(), None), ([[1], [1]], pa.list_(pa.int64()), "[1]")],
)
def test_one_value_is_a_constant(values: list[Any], type_: Any, constant: Any) -> None:
    assert encode(values, type_) == {"name": "x", "constant": constant}


def test_a_tile_keeps_the_aspect_and_lays_transparency_over_grey() -> None:
    tile = draw_tile(Image.new("RGBA", (600, 300), (255, 0, 0, 0)))

    assert tile.size == (TILE, TILE // 2)
    assert tile.getpixel((5, 5)) == (128, 128, 128)


def test_a_sheet_is_stored_with_its_last_tile(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    sheets = ShardSheets(store, 3, 0, Span(100, 70), range(100, 170))
    for index in range(100, 169):
        sheets.add(index, Image.new("RGB", (10, 10), "red") if index % 2 else None)

    assert store.exists(sheet_name(3, 0, 0)) and not store.exists(sheet_name(3, 0, 1))
    sheets.close()
    assert store.exists(sheet_name(3, 0, 1))
    with Image.open(tmp_path / sheet_name(3, 0, 1)) as image:
        assert image.size == (6 * TILE, TILE)


def test_every_picture_has_its_tile_after_a_retry(make_job: MakeJob, tmp_path: Path) -> None:
    """Thumbnails of a later round lie in sheets of their own."""
    folder = Path(run(make_job(backend={"kind": "procedural", "fail_when": "an owl"})).path)
    before = set((folder / "gallery/thumbs").iterdir())
    retry(folder, overrides=["backend.fail_when="])

    tiles = np.frombuffer(unpack(read_document(folder)["tiles"]), "<u4")
    assert (tiles > 0).all() and len(set(tiles.tolist())) == 20
    assert before < set((folder / "gallery/thumbs").iterdir())
    assert audit(folder).whole


def test_a_run_without_a_gallery_gets_one_later(make_job: MakeJob, tmp_path: Path) -> None:
    folder = Path(run(make_job(output={"path": str(tmp_path / "run"), "gallery": False})).path)
    assert not (folder / "gallery").exists()

    written = gallery(folder)

    assert (written.rows, written.thumbnails) == (20, 20)
    assert (np.frombuffer(unpack(read_document(folder)["tiles"]), "<u4") > 0).all()
    assert gallery(folder).thumbnails == 0


def test_thumbnails_made_later_are_those_of_the_workers(make_job: MakeJob) -> None:
    folder = Path(run(make_job()).path)
    made = {path.name: path.read_bytes() for path in (folder / "gallery/thumbs").iterdir()}
    shutil.rmtree(folder / "gallery")

    gallery(folder)

    assert {path.name: path.read_bytes() for path in (folder / "gallery/thumbs").iterdir()} == made


def test_nothing_of_this_machine_stands_in_it(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(backend={"kind": "procedural", "fail_when": "an owl"})
    folder = Path(run(job).path)
    table = open_run(folder).table()

    text = (
        "".join(
            unpack(part).decode("utf-8", "replace")
            for path in (folder / "gallery/data").iterdir()
            for part in [*_packed(path.read_text())]
        )
        + (folder / "gallery/data/columns.js").read_text()
    )

    for private in (str(tmp_path), *table["worker"].unique().to_pylist(), *table["device_name"].unique().to_pylist()):
        assert private is None or private not in text
    assert "an owl" in text


def _packed(text: str) -> list[str]:
    return [part for part in text.split('"') if part.startswith("H4sI")]


def test_digits_of_long_seeds_are_kept(make_job: MakeJob) -> None:
    job = make_job(seeds=[2**62 + 1, 5], samples_per_prompt=1)
    folder = Path(run(job).path)

    (packed,) = _packed((folder / "gallery/data/rows-00000.js").read_text())

    assert set(json.loads(unpack(packed))["seed"]) == {str(2**62 + 1), "5"}
