"""Write a run's gallery: the page, the data that it reads, and the thumbnails that nobody made yet.

What stands in the page is meant for others: no host, no user, and of a path only its last part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from abstractvision_batch.errors import DependencyError, GenerationError, StorageError
from abstractvision_batch.job.marks import LocalPath, Outside, Secret
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.points import find_axes
from abstractvision_batch.job.walk import leaves
from abstractvision_batch.report.gallery.columns import EXACT, ColumnEncoder, as_text, is_number, pack, pack_json
from abstractvision_batch.report.gallery.inputs import DIGESTS, INPUTS, preview_name
from abstractvision_batch.report.gallery.sheets import PER_SHEET, SHEETS, TILE, ShardSheets, Span, sheet_name
from abstractvision_batch.runs.columns import OK, fit_columns, manifest_schema
from abstractvision_batch.runs.files import GALLERY
from abstractvision_batch.runs.manifest import iter_rows, list_parts, read_shard_rows
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.record import RunRecord
from abstractvision_batch.runs.row_files import open_picture, read_artifact
from abstractvision_batch.storage.in_flight import map_in_flight
from abstractvision_batch.storage.store import Store

#: Rows above which a run gets no page: a browser would hold more than a gigabyte.
MAX_ROWS = 2_000_000
#: Rows of one file of details.
DETAIL_ROWS = 4096
#: Pictures that the end of a run makes thumbnails of, where its workers did not; `avbatch gallery` makes all.
LATE_PICTURES = 1024
_PAGE = ("index.html", "style.css")
#: The parts of the page's program, in their order; `app.js` is all of them.
_PROGRAM = (
    *("data", "rows", "state", "thumbnails", "grid", "matrix", "facets", "picture", "labels", "snippets"),
    *("lightbox", "keys", "start"),
)
#: Columns that a click asks for.
_DETAILS = (
    *("request_id", "file_name", "member", "offset_bytes", "size_bytes", "content_type", "seed", "params_json"),
    *("sha256", "pixel_sha256", "started_at", "finished_at", "batch_id", "batch_slot"),
)
#: Columns that tell of a machine, or say nothing to people.
_HIDDEN = frozenset(
    {"worker", "device_name", "environment_id", "metadata_json", "container_bytes", "index", "shard", "retry_round"}
    | {"input_sha256", "mask_sha256", "input_width", "input_height", "error_class"}
)
_PATHS = ("input_image", "mask_image")
_FOLDER = re.compile(r"(?:[a-z][a-z0-9+]*://|(?<![\w.~-])[~.]{0,2}/)(?:[^\s/:'\"()]+(?::\d+)?/)+", re.IGNORECASE)


class Written(NamedTuple):
    """What a gallery has."""

    rows: int
    thumbnails: int
    """That were made just now."""


def write_gallery(store: Store, record: RunRecord, *, late_pictures: int | None = None) -> Written | None:
    """Write `gallery/` of a run, as far as the run is; None where it has more rows than a page can show.

    Args:
        store: The run's.
        record: Its record.
        late_pictures: How many thumbnails to make at most of pictures that have none; None for all.

    Raises:
        StorageError: the manifest cannot be read, or the gallery cannot be written.
    """
    if record.plan.requests > MAX_ROWS:
        return None
    parts = list_parts(store)
    there = set(store.list(SHEETS))
    made = _make_thumbnails(store, record.plan, parts, there, late_pictures)
    writer = DataWriter(store, there)
    schema = manifest_schema(record.plan.schema)
    for table in iter_rows(store, None, parts, record.plan):
        writer.add(fit_columns(table.replace_schema_metadata(None), schema))
    data = record.data
    licences = sorted({card.license for card in record.cards.values()})
    writer.finish(
        {
            **describe_for_page(record.specs, licences, record.plan.requests),
            "run": data["name"],
            "layout": record.layout,
            "fingerprint": record.fingerprint,
            "created_at": data["created_at"],
        }
    )
    put_page(store)
    return Written(writer.rows, made)


def put_page(store: Store) -> None:
    """Write the page itself, which is the same for every run."""
    page = files(__package__) / "page"
    for name in _PAGE:
        store.put(f"{GALLERY}/{name}", (page / name).read_bytes())
    program = "\n".join((page / f"{name}.js").read_text(encoding="utf-8") for name in _PROGRAM)
    store.put(f"{GALLERY}/app.js", program.encode())
    store.put(f"{GALLERY}/robots.txt", b"User-agent: *\nDisallow: /\n")


class DataWriter:
    """Takes the rows in the order of the plan, and writes them as `data/columns.js` and `data/rows-00000.js`."""

    def __init__(self, store: Store, sheets: set[str]) -> None:
        self.rows = 0
        self._store = store
        self._there = sheets
        self._previews = set(store.list(INPUTS))
        self._columns: dict[str, ColumnEncoder] = {}
        self._sheets: dict[str, int] = {}
        self._tiles: list[np.ndarray[Any, Any]] = []
        self._waiting: list[pa.Table] = []
        self._first: dict[int, int] = {}

    def add(self, table: pa.Table) -> None:
        """Take further rows."""
        self.rows += table.num_rows
        self._tiles.append(self._find_tiles(table))
        for field in table.schema:
            if field.name in _HIDDEN or pa.types.is_binary(field.type) or pa.types.is_null(field.type):
                continue
            if field.name not in _DETAILS or field.name == "seed":
                encoder = self._columns.setdefault(field.name, ColumnEncoder(field.name, field.type))
                encoder.add(_for_others(field.name, table[field.name].combine_chunks()))
        self._waiting.append(self._details_of(table))
        if sum(table.num_rows for table in self._waiting) >= DETAIL_ROWS:
            self._write_details()

    def finish(self, about: Mapping[str, Any]) -> None:
        """Write what is left, then what names it all."""
        self._write_details(last=True)
        tiles = np.concatenate(self._tiles) if self._tiles else np.zeros(0, np.uint32)
        document = {
            **about,
            "rows": self.rows,
            "tile": TILE,
            "per_sheet": PER_SHEET,
            "detail_rows": DETAIL_ROWS,
            "sheets": list(self._sheets),
            "tiles": pack(tiles.astype("<u4").tobytes()),
            "columns": [column.finish() for column in self._columns.values()],
        }
        text = json.dumps(document, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
        self._store.put(f"{GALLERY}/data/columns.js", f"AVB.load({text});\n".encode())

    def _find_tiles(self, table: pa.Table) -> np.ndarray[Any, Any]:
        """Return for each row PER_SHEET times the number of its sheet, plus its place, plus 1; 0 for none."""
        found = np.zeros(table.num_rows, np.uint32)
        for row, (shard, index, retry_round, status) in enumerate(_places(table)):
            # Rows come in the order of the plan, and each shard's are all there.
            name, place = _sheet_of(shard, retry_round, index - self._first.setdefault(shard, index))
            if status == OK and name in self._there:
                found[row] = self._sheets.setdefault(name, len(self._sheets)) * PER_SHEET + place + 1
        return found

    def _details_of(self, table: pa.Table) -> pa.Table:
        """Return what a click asks for, as text, so that no number loses digits in JavaScript."""
        kept: dict[str, pa.Array] = {}
        for field in table.schema:
            array = table[field.name].combine_chunks()
            large = pa.types.is_integer(field.type) and any(abs(value or 0) > EXACT for value in array.to_pylist())
            if field.name in _DETAILS or (large and field.name not in _HIDDEN):
                kept[field.name] = array.cast(pa.string()) if is_number(field.type) else as_text(array)
        for digest, name in DIGESTS.items():
            if digest in table.column_names and self._previews:
                rows = table.select([digest, "width", "height"]).to_pylist()
                names = (preview_name(row, digest) for row in rows)
                kept[f"{name}_preview"] = pa.array(
                    [name if name in self._previews else None for name in names], "string"
                )
        return pa.table(kept)

    def _write_details(self, *, last: bool = False) -> None:
        waiting = pa.concat_tables(self._waiting) if self._waiting else None
        self._waiting = []
        while waiting is not None and waiting.num_rows >= (1 if last else DETAIL_ROWS):
            number = (self.rows - waiting.num_rows) // DETAIL_ROWS
            packed = json.dumps(pack_json(waiting.slice(0, DETAIL_ROWS).to_pydict()))
            self._store.put(f"{GALLERY}/data/rows-{number:05d}.js", f"AVB.takeRows({number},{packed});\n".encode())
            waiting = waiting.slice(DETAIL_ROWS)
        if waiting is not None and waiting.num_rows:
            self._waiting = [waiting]


def _for_others(name: str, array: pa.Array) -> pa.Array:
    """Return a column without the folders, hosts and users in it."""
    if name in _PATHS:
        return pa.array([value and re.split(r"[/\\]", value.split("?")[0])[-1] for value in array.to_pylist()])
    if name == "error_message":
        return pa.array([value and _FOLDER.sub("", value) for value in array.to_pylist()], pa.string())
    return array


def describe_for_page(specs: Mapping[str | None, JobSpec], licences: list[str], requests: int) -> dict[str, Any]:
    """Return what the page says of a run's jobs: one, or one for each variant."""
    first = next(iter(specs.values()))
    axes = {name for spec in specs.values() for name in find_axes(spec)}
    return {
        "task": first.task,
        "description": first.description,
        "licences": licences,
        "requests": requests,
        "jobs": {name or "": _job_of(spec) for name, spec in specs.items()},
        "axes": sorted(axes),
    }


def _job_of(spec: JobSpec) -> dict[str, Any]:
    """Return what a spec for one picture starts from: model and backend, without what is of this machine alone."""
    backend: dict[str, Any] = {"kind": spec.backend.kind}
    for leaf in leaves(type(spec.backend), spec.backend):
        private = any(leaf.mark(mark) is not None for mark in (LocalPath, Outside, Secret))
        if leaf.path[0] != "kind" and not leaf.is_default and not private and isinstance(leaf.value, str | int | float):
            backend[".".join(map(str, leaf.path))] = leaf.value
    model = re.split(r"[/\\]", spec.model)[-1] if spec.model.startswith((".", "/", "~")) else spec.model
    return {"task": spec.task, "model": model, "backend": backend}


class _Lacking(NamedTuple):
    """Requests of a shard and retry round whose sheets are not there."""

    span: Span
    indexes: list[int]


def _make_thumbnails(
    store: Store, plan: PlanSummary, parts: Mapping[int, list[int]], there: set[str], limit: int | None
) -> int:
    """Make the sheets that are not there; how many thumbnails they have. `there` gets their names."""
    made = 0
    for (shard, retry_round), lacking in _find_lacking(store, plan, parts, there).items():
        if limit is not None and made >= limit:
            break
        rows = read_shard_rows(store, shard, parts[shard])
        wanted = rows.filter(pc.field("index").isin(lacking.indexes)).to_pylist()
        sheets = ShardSheets(store, shard, retry_round, lacking.span, lacking.indexes)
        for row, picture in map_in_flight(wanted, lambda row: _open(store, row)):
            sheets.add(row["index"], picture)
            made += picture is not None
        sheets.close()
        there |= {_sheet_of(shard, retry_round, index - lacking.span.first)[0] for index in lacking.indexes}
    return made


def _find_lacking(
    store: Store, plan: PlanSummary, parts: Mapping[int, list[int]], there: set[str]
) -> dict[tuple[int, int], _Lacking]:
    """Find the pictures whose sheet is not there, by shard and retry round."""
    counts: dict[int, tuple[int, int]] = {}
    indexes: dict[tuple[int, int], list[int]] = {}
    for table in iter_rows(store, ["shard", "index", "retry_round", "status"], dict(parts), plan):
        for shard, index, retry_round, status in _places(table):
            first, count = counts.get(shard, (index, 0))
            counts[shard] = (first, count + 1)
            if status == OK and _sheet_of(shard, retry_round, index - first)[0] not in there:
                indexes.setdefault((shard, retry_round), []).append(index)
    return {place: _Lacking(Span(*counts[place[0]]), found) for place, found in indexes.items()}


def _places(table: pa.Table) -> Iterator[tuple[int, int, int, str]]:
    return zip(*(table[name].to_pylist() for name in ("shard", "index", "retry_round", "status")), strict=True)


def _sheet_of(shard: int, retry_round: int, position: int) -> tuple[str, int]:
    """Return the file of a tile, in the folder of sheets, and its place there."""
    number, place = divmod(position, PER_SHEET)
    return sheet_name(shard, retry_round, number).removeprefix(f"{SHEETS}/"), place


def _open(store: Store, row: Mapping[str, Any]) -> Image.Image | None:
    """Return a row's picture; None where it cannot be read, which `audit` is there to say."""
    try:
        return open_picture(row, lambda one: read_artifact(store, one))
    except (GenerationError, StorageError, DependencyError):
        return None
