"""The contact sheet shows what is there, and a missing or failed picture spoils nothing."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from abstractvision_batch.backends import ProceduralVisionBackend
from abstractvision_batch.errors import StorageError
from abstractvision_batch.report.contact_sheet import GAP, PICTURE, TILE, TITLE, write_contact_sheet
from abstractvision_batch.types import VideoGenerationRequest

RED, BLUE = (255, 0, 0), (0, 0, 255)


def png(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def row(index: int, **columns: Any) -> dict[str, Any]:
    return {
        "index": index,
        "prompt": f"prompt {index}",
        "seed": 2**62 + index,
        "steps": 10,
        "status": "ok",
        "error_kind": None,
        "error_message": None,
        "file_name": f"{index}.png",
        "content_type": "image/png",
        **columns,
    }


def draw(
    rows: list[dict[str, Any]], read: Callable[[str], bytes], *, title: str = "title", group_by: tuple[str, ...] = ()
) -> Image.Image:
    schema = pa.schema([("error_kind", pa.string()), ("error_message", pa.string())])
    table = pa.Table.from_pylist(rows)
    for field in schema:
        position = table.schema.get_field_index(field.name)
        table = table.set_column(position, field, table[field.name].cast(field.type))
    return Image.open(
        io.BytesIO(write_contact_sheet(table, lambda row: read(row["file_name"]), title=title, group_by=group_by))
    )


def middle_of_tile(sheet: Image.Image, number: int) -> object:
    return sheet.getpixel((GAP + number * (PICTURE + GAP) + PICTURE // 2, TITLE + PICTURE // 2))


def test_every_row_is_a_tile_in_order() -> None:
    files = {"0.png": png(RED), "1.png": png(BLUE)}

    sheet = draw([row(0), row(1)], files.__getitem__)

    assert middle_of_tile(sheet, 0) == RED
    assert middle_of_tile(sheet, 1) == BLUE


def test_a_small_picture_keeps_its_pixels_sharp() -> None:
    checks = Image.new("RGB", (2, 1), RED)
    checks.putpixel((1, 0), BLUE)
    out = io.BytesIO()
    checks.save(out, "PNG")

    sheet = draw([row(0)], lambda name: out.getvalue())

    colours = {sheet.getpixel((x, TITLE + PICTURE // 2)) for x in range(GAP, GAP + PICTURE)}
    assert colours == {RED, BLUE}


@pytest.mark.parametrize("size", [(2000, 100), (100, 2000), (3000, 2000)])
def test_a_picture_of_any_shape_fits_its_tile(size: tuple[int, int]) -> None:
    sheet = draw([row(0), row(1)], lambda name: png(RED, size))

    assert middle_of_tile(sheet, 0) == RED
    assert middle_of_tile(sheet, 1) == RED


def test_a_failed_row_is_a_grey_tile() -> None:
    failed = row(1, status="failed", error_kind="busy", error_message="no answer", file_name=None, content_type=None)

    sheet = draw([row(0), failed], {"0.png": png(RED)}.__getitem__)

    left = GAP + (PICTURE + GAP)
    assert sheet.getpixel((left + 2, TITLE + 2)) == TILE


def test_a_missing_or_damaged_file_does_not_end_the_sheet() -> None:
    def read(name: str) -> bytes:
        if name == "0.png":
            raise StorageError("0.png: no such file")
        return b"not an image" if name == "1.png" else png(RED)

    sheet = draw([row(0), row(1), row(2)], read)

    assert middle_of_tile(sheet, 2) == RED


def test_a_video_shows_its_first_frame() -> None:
    pytest.importorskip("av")
    video = ProceduralVisionBackend().generate_video(
        VideoGenerationRequest(prompt="waves", width=32, height=32, num_frames=2, seed=7)
    )

    sheet = draw([row(0, content_type="video/mp4")], lambda name: video.data)

    tile = sheet.crop((GAP, TITLE, GAP + PICTURE, TITLE + PICTURE))
    assert len(set(tile.resize((8, 8)).convert("L").tobytes())) > 4


def test_rows_of_one_parameter_set_stand_under_one_heading_even_when_the_plan_parts_them() -> None:
    rows = [row(0, steps=10), row(1, steps=20), row(2, steps=10), row(3, steps=20)]

    grouped = draw(rows, lambda name: png(RED), group_by=("steps",))
    plain = draw(rows, lambda name: png(RED))

    assert grouped.height > 1.5 * plain.height  # two lines of two tiles, against one line of four
    assert grouped.width < plain.width


@pytest.mark.parametrize("prompt", ["", "word " * 5000, "x" * 100_000, "line\nbreak\tand \x1b[31m escape", "狐狸 🦊"])
def test_any_prompt_can_be_a_caption(prompt: str) -> None:
    sheet = draw([row(0, prompt=prompt)], lambda name: png(RED))

    assert middle_of_tile(sheet, 0) == RED


def test_no_rows_make_an_empty_sheet() -> None:
    table = pa.Table.from_pylist([row(0)]).slice(0, 0)

    sheet = Image.open(io.BytesIO(write_contact_sheet(table, lambda name: b"", title="nothing")))

    assert sheet.height >= PICTURE
