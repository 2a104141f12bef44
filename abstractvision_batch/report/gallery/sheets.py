"""Thumbnails of a run, 64 to a file: tiles of 128 pixels in sheets of at most 8 × 8.

A sheet is of one shard and retry round, and its tiles lie in the order of the shard's requests, so a worker makes the
sheets of its shard alone, while it has the pixels in memory. What a round did not make stays empty in its sheets.
"""

from __future__ import annotations

import io
import logging
import threading
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from PIL import Image, ImageOps

from abstractvision_batch.errors import StorageError
from abstractvision_batch.runs.files import GALLERY
from abstractvision_batch.storage.store import Store

logger = logging.getLogger(__name__)

#: Width and height of a tile, in pixels.
TILE = 128
#: Tiles across a sheet, and at most down.
ACROSS = 8
PER_SHEET = ACROSS * ACROSS
SHEETS = f"{GALLERY}/thumbs"
_QUALITY = 75
_EMPTY = (128, 128, 128)


@dataclass(frozen=True, slots=True)
class Span:
    """The requests of a shard, in the plan: the index of the first, and how many there are."""

    first: int
    count: int


def sheet_name(shard: int, retry_round: int, number: int) -> str:
    """Return the name of a shard's sheet, counted from 0, in the run's folder."""
    return f"{SHEETS}/{shard:05d}-a{retry_round}-{number:03d}.webp"


def draw_tile(picture: Image.Image) -> Image.Image:
    """Return the RGB thumbnail of a picture, its longer side TILE pixels; transparent parts lie over grey."""
    tile = picture.copy()
    tile.thumbnail((TILE, TILE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    if "A" in tile.getbands():
        ground = Image.new("RGBA", tile.size, (*_EMPTY, 255))
        tile = Image.alpha_composite(ground, tile.convert("RGBA"))
    return tile.convert("RGB")


class ShardSheets:
    """Collects the tiles of one retry round of a shard, and stores a sheet as soon as its last tile is there.

    Writer threads may add tiles side by side. What cannot be stored is left out with a warning: pictures count, and
    thumbnails can be made again.
    """

    def __init__(self, store: Store, shard: int, retry_round: int, span: Span, indexes: Collection[int]) -> None:
        """`indexes`: which requests of the shard this round makes, by their place in the plan."""
        self._store = store
        self._shard = shard
        self._round = retry_round
        self._span = span
        self._left = Counter((index - span.first) // PER_SHEET for index in indexes)
        self._tiles: dict[int, dict[int, Image.Image]] = {}
        self._lock = threading.Lock()

    def add(self, index: int, picture: Image.Image | None) -> None:
        """Take the picture of a request; None where there is none."""
        tile = None if picture is None else draw_tile(picture)
        number, place = divmod(index - self._span.first, PER_SHEET)
        with self._lock:
            if tile is not None:
                self._tiles.setdefault(number, {})[place] = tile
            self._left[number] -= 1
            tiles = self._tiles.pop(number, None) if self._left[number] == 0 else None
        if tiles:
            self._put(number, tiles)

    def close(self) -> None:
        """Store the sheets that wait for tiles which do not come."""
        for number in sorted(self._tiles):
            self._put(number, self._tiles.pop(number))

    def _put(self, number: int, tiles: dict[int, Image.Image]) -> None:
        name = sheet_name(self._shard, self._round, number)
        try:
            self._store.put(name, _draw_sheet(tiles, min(PER_SHEET, self._span.count - number * PER_SHEET)))
        except StorageError as error:
            logger.warning("%s: no thumbnails (avbatch gallery makes them): %s", name, error)


def _draw_sheet(tiles: dict[int, Image.Image], count: int) -> bytes:
    """Draw tiles by their places on a sheet of `count` places, as a WebP file."""
    across = min(ACROSS, count)
    sheet = Image.new("RGB", (across * TILE, -(-count // across) * TILE), _EMPTY)
    for place, tile in tiles.items():
        down, right = divmod(place, across)
        sheet.paste(ImageOps.pad(tile, (TILE, TILE), color=_EMPTY), (right * TILE, down * TILE))
    out = io.BytesIO()
    sheet.save(out, "WEBP", quality=_QUALITY, method=2)
    return out.getvalue()
