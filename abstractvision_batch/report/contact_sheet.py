"""A contact sheet: a labelled grid of a run's pictures as one PNG, in the order of the plan.

Rows of one matrix point stand under one heading; variants have a column each. A failed request is a grey tile with its
reason. The font is Pillow's own.

Not covered: which rows to show (`run_report`), prompts in scripts that the font lacks (they show as boxes).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from abstractvision_batch.errors import DependencyError, GenerationError, StorageError
from abstractvision_batch.runs.columns import VARIANT
from abstractvision_batch.runs.row_files import open_picture

# Pixels.
PICTURE = 192
GAP = 14
CAPTION = 50
HEADING = 34
TITLE = 44
PROMPT_LINES = 2

MIN_COLUMNS = 3  # of paper, so that the title fits
MAX_COLUMNS = 8

PAPER = (250, 250, 249)
INK = (28, 28, 30)
MUTED = (120, 120, 126)
TILE = (226, 226, 228)
ALARM = (170, 40, 40)

Row = Mapping[str, Any]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_contact_sheet(
    rows: pa.Table,
    read: Callable[[Row], bytes],
    *,
    title: str = "",
    group_by: Sequence[str] = (),
    variants: Sequence[str] = (),
) -> bytes:
    """Draw manifest rows as a grid.

    Args:
        rows: The rows to show, each a tile; `run_report.read_sample` picks them.
        read: The bytes that a row points to.
        title: First line of the sheet.
        group_by: Columns whose values make a heading: the spec's matrix.
        variants: Each has a column of the grid, under its name, and the same prompt and sample share a line; of
            several points of its matrix, the first is shown.

    Returns:
        A PNG.
    """
    if variants:
        return _draw_variants(rows.to_pylist(), read, title, variants)
    sections: dict[str, list[Row]] = {}
    for row in rows.to_pylist():
        sections.setdefault(_heading(row, group_by), []).append(row)
    columns = min(MAX_COLUMNS, max(map(len, sections.values()), default=1))
    sheet = _empty_sheet(sections, columns, title)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), _fit(title, _font(20), sheet.width - 2 * GAP), INK, _font(20))
    top = TITLE if title else GAP
    for heading, group in sections.items():
        if heading:
            draw.text((GAP, top + 10), _fit(heading, _font(15), sheet.width - 2 * GAP), INK, _font(15))
            top += HEADING
        for number, row in enumerate(group):
            left = GAP + number % columns * (PICTURE + GAP)
            _draw_tile(sheet, draw, row, read, left, top + number // columns * (PICTURE + CAPTION + GAP))
        top += _lines(group, columns) * (PICTURE + CAPTION + GAP)
    return _encode(sheet)


def _draw_variants(rows: Sequence[Row], read: Callable[[Row], bytes], title: str, variants: Sequence[str]) -> bytes:
    lines: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row["prompt_id"], row["sample_index"]), {}).setdefault(row[VARIANT], row)
    height = (TITLE if title else GAP) + HEADING + len(lines) * (PICTURE + CAPTION + GAP)
    sheet = Image.new("RGB", (GAP + max(len(variants), MIN_COLUMNS) * (PICTURE + GAP), height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), _fit(title, _font(20), sheet.width - 2 * GAP), INK, _font(20))
    top = TITLE if title else GAP
    for number, name in enumerate(variants):
        draw.text((GAP + number * (PICTURE + GAP), top + 10), _fit(name, _font(15), PICTURE), INK, _font(15))
    top += HEADING
    for line in lines.values():
        for number, name in enumerate(variants):
            if name in line:
                _draw_tile(sheet, draw, line[name], read, GAP + number * (PICTURE + GAP), top)
        top += PICTURE + CAPTION + GAP
    return _encode(sheet)


def _encode(sheet: Image.Image) -> bytes:
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _heading(row: Row, group_by: Sequence[str]) -> str:
    return "   ".join(f"{name} {_show(row[name])}" for name in group_by)


def _show(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _empty_sheet(sections: Mapping[str, Sequence[Row]], columns: int, title: str) -> Image.Image:
    height = TITLE if title else GAP
    for heading, group in sections.items():
        height += (HEADING if heading else 0) + _lines(group, columns) * (PICTURE + CAPTION + GAP)
    return Image.new("RGB", (GAP + max(columns, MIN_COLUMNS) * (PICTURE + GAP), max(height, PICTURE)), PAPER)


def _lines(group: Sequence[Row], columns: int) -> int:
    return -(-len(group) // columns)


def _draw_tile(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, row: Row, read: Callable[[Row], bytes], left: int, top: int
) -> None:
    draw.rectangle((left, top, left + PICTURE - 1, top + PICTURE - 1), TILE)
    try:
        picture = _fit_picture(open_opaque(row, read))
        sheet.paste(picture, (left + (PICTURE - picture.width) // 2, top + (PICTURE - picture.height) // 2))
    except (GenerationError, StorageError, DependencyError) as error:
        for number, line in enumerate(_wrap(str(error), _font(13), PICTURE - 2 * GAP, 8)):
            draw.text((left + GAP, top + GAP + 17 * number), line, ALARM, _font(13))
    top += PICTURE + 4
    for number, line in enumerate(_wrap(row["prompt"] or "", _font(13), PICTURE, PROMPT_LINES)):
        draw.text((left, top + 16 * number), line, INK, _font(13))
    draw.text(
        (left, top + 16 * PROMPT_LINES + 1),
        _fit(f"{row['index']} · seed {row['seed']}", _font(10), PICTURE),
        MUTED,
        _font(10),
    )


def open_opaque(row: Row, read: Callable[[Row], bytes]) -> Image.Image:
    """Return the row's picture as `open_picture` does, on paper where it is transparent."""
    image = open_picture(row, read)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, PAPER), image)
    return image.convert("RGB")


def _fit_picture(image: Image.Image) -> Image.Image:
    """Small pictures grow by a whole factor, pixel by pixel; large ones shrink smoothly."""
    larger = max(image.size)
    if larger <= PICTURE:
        return image.resize(
            (image.width * (PICTURE // larger), image.height * (PICTURE // larger)), Image.Resampling.NEAREST
        )
    size = (max(1, image.width * PICTURE // larger), max(1, image.height * PICTURE // larger))
    return image.resize(size, Image.Resampling.LANCZOS)


def _wrap(text: str, font: Font, width: int, lines: int) -> Iterator[str]:
    """At most `lines` lines of `text`, broken between words; the last one ends in … where something is left out."""
    words = text.split()
    for number in range(lines):
        if not words:
            return
        if number == lines - 1:
            yield _fit(" ".join(words), font, width)
            return
        taken = 1
        while taken < len(words) and font.getlength(" ".join(words[: taken + 1])) <= width:
            taken += 1
        yield _fit(" ".join(words[:taken]), font, width)
        words = words[taken:]


def _fit(text: str, font: Font, width: int) -> str:
    """`text`, cut to `width` pixels."""
    # A prompt may be longer than a book: measuring more than could ever fit is wasted.
    text = "".join(character if character.isprintable() else " " for character in text[: width + 1])
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _font(size: int) -> Font:
    return ImageFont.load_default(size)
