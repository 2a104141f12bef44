"""`avbatch diff`: two runs beside each other: what was asked for, where it was made, and what came out.

    run.json of both → fields, prompts, environments that differ
    rows of both → pairs (by request id, else by prompt, sample and matrix point) → pixels of each pair

Runs of two specs share no request id, as that is a hash of what determines the pixels; their rows are paired by what
stayed the same, so a changed scheduler or template is seen picture by picture.

Memory is that of both manifests' columns named here. Not covered: generating anything (`verify`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abstractvision_batch.errors import GenerationError, StorageError
from abstractvision_batch.job.fingerprint import leaf_values
from abstractvision_batch.job.marks import Effect
from abstractvision_batch.media.compare import IDENTICAL, Comparison, compare_artifacts, is_decodable, worst
from abstractvision_batch.report.diff_page import PagePair, draw_page
from abstractvision_batch.runs.columns import FAILED, NOT_RUN, SUPERSEDED
from abstractvision_batch.runs.environment import differing_values
from abstractvision_batch.runs.manifest import iter_rows
from abstractvision_batch.runs.opened import Run, open_run
from abstractvision_batch.runs.row_files import FILE_COLUMNS, row_views
from abstractvision_batch.runs.weights import read_weights
from abstractvision_batch.verbs.changes import Change, environment_changes, weights_changes

#: Pairs of unequal pixels that are decoded and measured, at most; the others are counted.
DEFAULT_MEASURED = 1000
#: What a request is made of.
REQUEST_COLUMNS = (
    "task", "model", "backend", "prompt", "negative_prompt", "seed", "steps", "guidance_scale", "width", "height",
    "num_frames", "fps", "strength", "input_image", "mask_image", "params_json", "batch_size",
)  # fmt: skip
#: What its input images are; runs of earlier versions do not say.
INPUT_COLUMNS = ("input_fit", "input_sha256", "mask_sha256")
#: What a matrix may vary: a row's point in it.
POINT_COLUMNS = (
    "negative_prompt", "steps", "guidance_scale", "width", "height", "num_frames", "fps", "strength", "params_json",
)  # fmt: skip
#: What of a row says which pixels it has and where they are.
ARTIFACT_COLUMNS = (*FILE_COLUMNS, "content_type", "pixel_sha256", "error_kind", "error_message")
_COLUMNS = tuple(
    dict.fromkeys(("index", "request_id", "prompt_id", "sample_index", *REQUEST_COLUMNS, *ARTIFACT_COLUMNS))
)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows that belong together."""

    there: Row
    here: Row
    comparison: Comparison | None
    """None where one of them failed, or where more pairs differ than are measured."""

    @property
    def verdict(self) -> str:
        """identical, close, different, not measured, not run, or failed."""
        if self.comparison is not None:
            return self.comparison.verdict
        statuses = (self.there["status"], self.here["status"])
        return "failed" if FAILED in statuses else "not run" if NOT_RUN in statuses else "not measured"

    @property
    def changed(self) -> list[str]:
        """Columns of the request that differ."""
        inputs = [name for name in INPUT_COLUMNS if None not in (self.there.get(name), self.here.get(name))]
        return [name for name in (*REQUEST_COLUMNS, *inputs) if self.there[name] != self.here[name]]

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "there": self.there["request_id"],
            "here": self.here["request_id"],
            "prompt": self.here["prompt"],
            "verdict": self.verdict,
            "changed": self.changed,
            "comparison": None if self.comparison is None else self.comparison.to_json(),
        }


@dataclass(frozen=True, slots=True)
class DiffReport:
    """What two runs do not share."""

    there: str
    here: str
    changes: tuple[Change, ...]
    pairs: tuple[Pair, ...]
    """Those that differ, the greatest difference first."""
    paired: int
    identical: int
    only_there: tuple[Row, ...]
    only_here: tuple[Row, ...]

    @property
    def by_verdict(self) -> dict[str, int]:
        """How many pairs there are of each verdict."""
        counts = Counter(pair.verdict for pair in self.pairs)
        return {"identical": self.identical, **dict(sorted(counts.items()))}

    @property
    def changed_columns(self) -> dict[str, int]:
        """In how many pairs each column of the request differs."""
        return dict(Counter(name for pair in self.pairs for name in pair.changed).most_common())

    @property
    def exit_code(self) -> int:
        """0 where both have the same requests with the same pixels, else 1."""
        return 1 if self.pairs or self.only_there or self.only_here else 0

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "there": self.there,
            "here": self.here,
            "changes": [change.to_json() for change in self.changes],
            "paired": self.paired,
            "by_verdict": self.by_verdict,
            "changed_columns": self.changed_columns,
            "only_there": [row["request_id"] for row in self.only_there],
            "only_here": [row["request_id"] for row in self.only_here],
            "pairs": [pair.to_json() for pair in self.pairs],
            "exit_code": self.exit_code,
        }


def diff(
    there: str | Path,
    here: str | Path,
    *,
    there_options: Mapping[str, Any] | None = None,
    here_options: Mapping[str, Any] | None = None,
    measured: int | None = DEFAULT_MEASURED,
) -> DiffReport:
    """Compare two runs.

    Args:
        there: Folder or URL of one run.
        here: Folder or URL of the other.
        there_options: fsspec options of the store of `there`.
        here_options: fsspec options of the store of `here`.
        measured: Pairs of unequal pixels to decode and measure, at most; None: all.

    Raises:
        SpecError: one of them is no run.
        StorageError: something cannot be read.
        OptionalDependencyMissingError: pixels differ, and the extra `compare` is not installed.
    """
    return compare_runs(open_run(there, there_options), open_run(here, here_options), measured=measured)


def compare_runs(there: Run, here: Run, *, measured: int | None = DEFAULT_MEASURED) -> DiffReport:
    """As `diff`, of opened runs."""
    matches, only_there, only_here = pair_rows(_rows(there), _rows(here))
    unequal = [(one, other) for one, other in matches if not _same_pixels(one, other)]
    pairs = []
    for number, (one, other) in enumerate(unequal):
        both = one["status"] == other["status"] == "ok"
        found = compare_rows(there, one, here, other) if both and (measured is None or number < measured) else None
        pairs.append(Pair(one, other, found))
    return DiffReport(
        there=there.path,
        here=here.path,
        changes=tuple(find_changes(there, here)),
        pairs=tuple(sorted(pairs, key=_worst_first)),
        paired=len(matches),
        identical=len(matches) - len(unequal),
        only_there=tuple(only_there),
        only_here=tuple(only_here),
    )


def find_changes(there: Run, here: Run) -> Iterator[Change]:
    """What the records of two runs do not share: spec, card, prompts, environments."""
    for effect in Effect:
        one, other = (leaf_values(run.record.spec, effect) for run in (there, here))
        for name, before, after in differing_values(one, other):
            yield Change(effect.value, name, before, after)
    for name, before, after in differing_values(there.record.card.to_json(), here.record.card.to_json()):
        yield Change("card", name, before, after)
    if there.plan.prompts_digest != here.plan.prompts_digest:
        yield Change("prompts", "prompt dataset", there.plan.prompts_digest[:12], here.plan.prompts_digest[:12])
    yield from weights_changes(read_weights(there.store), read_weights(here.store))
    yield from environment_changes(there, here)


def pair_rows(there: Iterable[Row], here: Iterable[Row]) -> tuple[list[tuple[Row, Row]], list[Row], list[Row]]:
    """Rows that belong together, and those that only one side has.

    First by request id; then, of what is left, by prompt, sample and matrix point; then by prompt id in place of the
    prompt, which finds those of a changed template. Rows that no key tells apart are paired in their order.
    """
    left, right = list(there), list(here)
    axes = [name for name in POINT_COLUMNS if _varies(left, name) or _varies(right, name)]
    keys: tuple[Callable[[Row], Any], ...] = (
        lambda row: row["request_id"],
        lambda row: (row["prompt"], row["sample_index"], *(row[name] for name in axes)),
        lambda row: (row["prompt_id"], row["sample_index"], *(row[name] for name in axes)),
    )
    pairs: list[tuple[Row, Row]] = []
    for key in keys:
        found, left, right = _pair_by(key, left, right)
        pairs += found
    return pairs, left, right


def _pair_by(
    key: Callable[[Row], Any], there: Sequence[Row], here: Sequence[Row]
) -> tuple[list[tuple[Row, Row]], list[Row], list[Row]]:
    waiting: dict[Any, list[Row]] = defaultdict(list)
    for row in reversed(there):
        waiting[key(row)].append(row)
    pairs, only_here = [], []
    for row in here:
        candidates = waiting.get(key(row))
        if candidates:
            pairs.append((candidates.pop(), row))
        else:
            only_here.append(row)
    taken = {id(row) for row, _ in pairs}
    return pairs, [row for row in there if id(row) not in taken], only_here


def _varies(rows: Sequence[Row], name: str) -> bool:
    return any(row[name] != rows[0][name] for row in rows)


def _rows(run: Run) -> Iterator[Row]:
    known = run.plan.schema.names
    columns = [*_COLUMNS, *(name for name in INPUT_COLUMNS if name in known)]
    for table in iter_rows(run.store, columns, plan=run.plan):
        yield from (row for row in table.to_pylist() if row["status"] != SUPERSEDED)


def _same_pixels(there: Row, here: Row) -> bool:
    both = there["status"] == here["status"] == "ok"
    return both and bool(there["pixel_sha256"] == here["pixel_sha256"])


def _worst_first(pair: Pair) -> tuple[int, float]:
    order = ("failed", "not run", "different", "close", "not measured", "identical").index(pair.verdict)
    psnr_db = pair.comparison.psnr_db if pair.comparison is not None else None
    return order, 0.0 if psnr_db is None else psnr_db


def compare_rows(there: Run, row_there: Mapping[str, Any], here: Run, row_here: Mapping[str, Any]) -> Comparison:
    """Compare the artifacts of two rows that succeeded; of several views the worst.

    Raises:
        StorageError: an artifact cannot be read.
        OptionalDependencyMissingError: the pixels differ, and the extra `compare` is not installed.
    """
    views_there, views_here = _views(there, row_there), _views(here, row_here)
    views = list(zip(views_there, views_here, strict=False))
    if len(views_there) != len(views_here):
        return Comparison("different", note=f"{len(views_there)} views and {len(views_here)}")
    return worst(
        IDENTICAL
        if one.get("pixel_sha256") == other.get("pixel_sha256")
        else _compare_files(there, one, here, other, row_there["content_type"], str(row_here["request_id"]))
        for one, other in views
    )


def _compare_files(
    there: Run, one: Mapping[str, Any], here: Run, other: Mapping[str, Any], content_type: str, request_id: str
) -> Comparison:
    """Compare two files; one that cannot be decoded is a difference, which names it and its row."""
    data = (there.read_artifact(one), here.read_artifact(other))
    try:
        return compare_artifacts(*data, content_type)
    except GenerationError:
        for run, row, content in ((there, one, data[0]), (here, other, data[1])):
            if not is_decodable(content, content_type):
                where = run.store.url_of(row["file_name"])
                note = f"{where}: {len(content):,} bytes that are no readable {content_type} (request {request_id})"
                return Comparison("different", note=note)
        raise


def _views(run: Run, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    try:
        return row_views(row)
    except ValueError as exc:
        raise StorageError(f"{run.path}: {row['request_id']}: its metadata_json is damaged: {exc}") from exc


def write_page(report: DiffReport, there: Run, here: Run, path: Path, *, pairs: int) -> None:
    """Write the page of the first `pairs` pairs to a local file.

    Raises:
        StorageError: the file cannot be written.
    """
    page = draw_page(
        [_shown(pair) for pair in report.pairs[:pairs]],
        there=report.there,
        here=report.here,
        total=len(report.pairs),
        counts=report.by_verdict,
        changes=report.changes,
        read_there=there.read_artifact,
        read_here=here.read_artifact,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error} (choose another --html)") from error


def _shown(pair: Pair) -> PagePair:
    figures = pair.verdict if pair.comparison is None else pair.comparison.describe()
    return PagePair(pair.there, pair.here, figures, pair.changed)
