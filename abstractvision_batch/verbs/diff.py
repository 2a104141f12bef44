"""`avbatch diff`: compare two runs: specs, environments, outputs.

    run.json of both → fields, prompts, environments that differ
    rows of both → pairs (by request id, else by prompt, sample and matrix point) → pixels of each pair

Runs of two specs share no request id, as that is a hash of what determines the pixels; their rows are paired by what
stayed the same, so a changed scheduler or template is seen picture by picture.

Memory is that of both manifests' columns named here. Not covered: generating anything (`verify`).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from abstractvision_batch.errors import GenerationError, SpecError, StorageError
from abstractvision_batch.job.fingerprint import leaf_values
from abstractvision_batch.job.marks import Effect
from abstractvision_batch.job.param_names import param_name
from abstractvision_batch.media.compare import IDENTICAL, Comparison, compare_artifacts, is_decodable, worst
from abstractvision_batch.report.diff_page import PagePair, draw_page
from abstractvision_batch.runs.columns import FAILED, NOT_RUN, SUPERSEDED, VARIANT
from abstractvision_batch.runs.environment import differing_values
from abstractvision_batch.runs.manifest import iter_rows
from abstractvision_batch.runs.opened import Run, open_run
from abstractvision_batch.runs.row_files import FILE_COLUMNS, row_views
from abstractvision_batch.text.suggestions import did_you_mean
from abstractvision_batch.text.to_json import to_json
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

    left: Row
    right: Row
    comparison: Comparison | None
    """None where one of them failed, or where more pairs differ than are measured."""

    @property
    def verdict(self) -> str:
        """identical, close, different, not measured, not run, or failed."""
        if self.comparison is not None:
            return self.comparison.verdict
        statuses = (self.left["status"], self.right["status"])
        return "failed" if FAILED in statuses else "not run" if NOT_RUN in statuses else "not measured"

    @property
    def changed(self) -> list[str]:
        """Columns of the request that differ."""
        inputs = [name for name in INPUT_COLUMNS if None not in (self.left.get(name), self.right.get(name))]
        differing = [name for name in (*REQUEST_COLUMNS, *inputs) if self.left[name] != self.right[name]]
        extra = _changed_extra(self.left, self.right) if "params_json" in differing else []
        return [one for name in differing for one in (extra if name == "params_json" else [name])]

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "left": self.left["request_id"],
            "right": self.right["request_id"],
            "prompt": self.right["prompt"],
            "verdict": self.verdict,
            "changed": self.changed,
            "comparison": to_json(self.comparison),
        }


def _changed_extra(left: Row, right: Row) -> list[str]:
    """Return the parameters in which the `extra` of two requests differs, by their names in a spec."""
    there, here = (json.loads(row["params_json"] or "{}") for row in (left, right))
    return [param_name(key) for key in sorted({*there, *here}) if there.get(key) != here.get(key)]


@dataclass(frozen=True, slots=True)
class DiffReport:
    """What two runs do not share."""

    left: str
    right: str
    changes: tuple[Change, ...]
    pairs: tuple[Pair, ...]
    """Those that differ, the greatest difference first."""
    paired: int
    identical: int
    only_left: tuple[Row, ...]
    only_right: tuple[Row, ...]

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
        return 1 if self.pairs or self.only_left or self.only_right else 0

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "left": self.left,
            "right": self.right,
            "changes": to_json(self.changes),
            "paired": self.paired,
            "by_verdict": self.by_verdict,
            "changed_columns": self.changed_columns,
            "only_left": [row["request_id"] for row in self.only_left],
            "only_right": [row["request_id"] for row in self.only_right],
            "pairs": [pair.to_json() for pair in self.pairs],
            "exit_code": self.exit_code,
        }


def diff(
    left: str | Path | Run,
    right: str | Path | Run | None = None,
    *,
    variants: tuple[str, str] | None = None,
    left_options: Mapping[str, Any] | None = None,
    right_options: Mapping[str, Any] | None = None,
    measured: int | None = DEFAULT_MEASURED,
) -> DiffReport:
    """Compare two runs, or two variants of one.

    Args:
        left: Folder or URL of one run, or the run, opened.
        right: The other; the same by default.
        variants: The variant of each run whose rows are compared; by default all rows.
        left_options: fsspec options of the store of `left`.
        right_options: fsspec options of the store of `right`.
        measured: Pairs of unequal pixels to decode and measure, at most; None: all.

    Raises:
        SpecError: one of them is no run, or has no such variant.
        StorageError: something cannot be read.
        OptionalDependencyMissingError: pixels differ, and the extra `compare` is not installed.
    """
    one = open_run(left, left_options)
    other = one if right is None else open_run(right, right_options)
    return compare_runs(one, other, variants=variants, measured=measured)


def compare_runs(
    left: Run, right: Run, *, variants: tuple[str, str] | None = None, measured: int | None = DEFAULT_MEASURED
) -> DiffReport:
    """As `diff`, of opened runs."""
    first, second = variants or (None, None)
    for run, name in ((left, first), (right, second)):
        _require_variant(run, name)
    matches, only_left, only_right = pair_rows(_rows(left, first), _rows(right, second))
    unequal = [(one, other) for one, other in matches if not _same_pixels(one, other)]
    pairs = []
    for number, (one, other) in enumerate(unequal):
        both = one["status"] == other["status"] == "ok"
        found = compare_rows(left, one, right, other) if both and (measured is None or number < measured) else None
        pairs.append(Pair(one, other, found))
    return DiffReport(
        left=left.url if first is None else f"{left.url} variant {first}",
        right=right.url if second is None else f"{right.url} variant {second}",
        changes=tuple(find_changes(left, right, variants)),
        pairs=tuple(sorted(pairs, key=_worst_first)),
        paired=len(matches),
        identical=len(matches) - len(unequal),
        only_left=tuple(only_left),
        only_right=tuple(only_right),
    )


def find_changes(left: Run, right: Run, variants: tuple[str, str] | None = None) -> Iterator[Change]:
    """What the records of two runs, or of a variant of each, do not share: spec, card, prompts, environments."""
    chosen = variants or (None, None)
    specs = [
        run.record.spec if name is None else run.record.specs[name]
        for run, name in zip((left, right), chosen, strict=True)
    ]
    for effect in Effect:
        one, other = (leaf_values(spec, effect) for spec in specs)
        for name, before, after in differing_values(one, other):
            yield Change(effect.value, name, before, after)
    one, other = (run.record.cards[spec.model].to_json() for run, spec in zip((left, right), specs, strict=True))
    for name, before, after in differing_values(one, other):
        yield Change("card", name, before, after)
    if left.plan.prompts_digest != right.plan.prompts_digest:
        yield Change("prompts", "prompt dataset", left.plan.prompts_digest[:12], right.plan.prompts_digest[:12])
    yield from weights_changes(left, right)
    yield from environment_changes(left, right)


def pair_rows(left: Iterable[Row], right: Iterable[Row]) -> tuple[list[tuple[Row, Row]], list[Row], list[Row]]:
    """Rows that belong together, and those that only one side has.

    First by request id; then, of what remains, by prompt, sample and matrix point; then by prompt id in place of the
    prompt, which finds those of a changed template. Rows that no key tells apart are paired in their order.
    """
    only_left, only_right = list(left), list(right)
    axes = [name for name in POINT_COLUMNS if _varies(only_left, name) or _varies(only_right, name)]
    keys: tuple[Callable[[Row], Any], ...] = (
        lambda row: row["request_id"],
        lambda row: (row["prompt"], row["sample_index"], *(row[name] for name in axes)),
        lambda row: (row["prompt_id"], row["sample_index"], *(row[name] for name in axes)),
    )
    pairs: list[tuple[Row, Row]] = []
    for key in keys:
        found, only_left, only_right = _pair_by(key, only_left, only_right)
        pairs += found
    return pairs, only_left, only_right


def _pair_by(
    key: Callable[[Row], Any], left: Sequence[Row], right: Sequence[Row]
) -> tuple[list[tuple[Row, Row]], list[Row], list[Row]]:
    waiting: dict[Any, list[Row]] = defaultdict(list)
    for row in reversed(left):
        waiting[key(row)].append(row)
    pairs, only_right = [], []
    for row in right:
        candidates = waiting.get(key(row))
        if candidates:
            pairs.append((candidates.pop(), row))
        else:
            only_right.append(row)
    taken = {id(row) for row, _ in pairs}
    return pairs, [row for row in left if id(row) not in taken], only_right


def _varies(rows: Sequence[Row], name: str) -> bool:
    return any(row[name] != rows[0][name] for row in rows)


def _require_variant(run: Run, name: str | None) -> None:
    known = [str(variant["name"]) for variant in run.record.variants]
    if name is not None and name not in known:
        near = did_you_mean(name, known)
        hint = f"did you mean {near}?" if near else f"it has: {', '.join(known)}" if known else "it has no variants"
        raise SpecError(f"{run.url}: no variant {name!r} ({hint})")


def _rows(run: Run, variant: str | None) -> Iterator[Row]:
    """Yield the rows of a run, or of one variant of it."""
    known = run.plan.schema.names
    columns = [*_COLUMNS, *(name for name in (VARIANT, *INPUT_COLUMNS) if name in known)]
    for table in iter_rows(run.store, columns, plan=run.plan):
        own = table if variant is None else table.filter(pc.field(VARIANT) == variant)
        yield from (row for row in own.to_pylist() if row["status"] != SUPERSEDED)


def _same_pixels(left: Row, right: Row) -> bool:
    both = left["status"] == right["status"] == "ok"
    return both and bool(left["pixel_sha256"] == right["pixel_sha256"])


def _worst_first(pair: Pair) -> tuple[int, float]:
    order = ("failed", "not run", "different", "close", "not measured", "identical").index(pair.verdict)
    psnr_db = pair.comparison.psnr_db if pair.comparison is not None else None
    return order, 0.0 if psnr_db is None else psnr_db


def compare_rows(left: Run, row_left: Mapping[str, Any], right: Run, row_right: Mapping[str, Any]) -> Comparison:
    """Compare the artifacts of two rows that succeeded; of several views the worst.

    Raises:
        StorageError: an artifact cannot be read.
        OptionalDependencyMissingError: the pixels differ, and the extra `compare` is not installed.
    """
    views_left, views_right = _views(left, row_left), _views(right, row_right)
    views = list(zip(views_left, views_right, strict=False))
    if len(views_left) != len(views_right):
        return Comparison("different", note=f"{len(views_left)} views and {len(views_right)}")
    return worst(
        IDENTICAL
        if one.get("pixel_sha256") == other.get("pixel_sha256")
        else _compare_files(left, one, right, other, row_left["content_type"], str(row_right["request_id"]))
        for one, other in views
    )


def _compare_files(
    left: Run, one: Mapping[str, Any], right: Run, other: Mapping[str, Any], content_type: str, request_id: str
) -> Comparison:
    """Compare two files; one that cannot be decoded is a difference, which names it and its row."""
    data = (left.read_artifact(one), right.read_artifact(other))
    try:
        return compare_artifacts(*data, content_type)
    except GenerationError:
        for run, row, content in ((left, one, data[0]), (right, other, data[1])):
            if not is_decodable(content, content_type):
                where = run.store.url_of(row["file_name"])
                note = f"{where}: {len(content):,} bytes that are no readable {content_type} (request {request_id})"
                return Comparison("different", note=note)
        raise


def _views(run: Run, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    try:
        return row_views(row)
    except ValueError as exc:
        raise StorageError(f"{run.url}: {row['request_id']}: its metadata_json is damaged: {exc}") from exc


def write_page(report: DiffReport, left: Run, right: Run, path: Path, *, pairs: int) -> None:
    """Write the page of the first `pairs` pairs to a local file.

    Raises:
        StorageError: the file cannot be written.
    """
    page = draw_page(
        [_shown(pair) for pair in report.pairs[:pairs]],
        left=report.left,
        right=report.right,
        total=len(report.pairs),
        counts=report.by_verdict,
        changes=report.changes,
        read_left=left.read_artifact,
        read_right=right.read_artifact,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error} (choose another --html)") from error


def _shown(pair: Pair) -> PagePair:
    figures = pair.verdict if pair.comparison is None else pair.comparison.describe()
    return PagePair(pair.left, pair.right, figures, pair.changed)
