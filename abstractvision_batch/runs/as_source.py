"""The rows of a run as prompts for another job: text → image → video.

    prompt, id, image          what was asked for, its request id, and the picture as a name in the run's store
    source_seed, source_model… what made it, under names that no plan has
    source_extra.clip_skip…    its parameters that only its backend has
    the run's own columns      those of its prompts, under theirs

A run folder is not trusted: names stay inside its store, links out of it are not followed, and no column of it is
taken for anything but text, so that no path or parameter of a stranger is read or used.

Not covered: which job asks (`prompts.sources`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from abstractvision_batch.errors import SpecError, StorageError
from abstractvision_batch.job.param_names import is_other
from abstractvision_batch.job.points import find_axes
from abstractvision_batch.runs.columns import OK, fit_columns, fixed_columns, manifest_schema
from abstractvision_batch.runs.files import ARTIFACTS
from abstractvision_batch.runs.manifest import iter_rows
from abstractvision_batch.runs.opened import Run
from abstractvision_batch.runs.row_files import row_files
from abstractvision_batch.runs.row_filter import check_condition, filter_rows, find_columns
from abstractvision_batch.storage.urls import part_of

#: Columns of the plan and of the results that go on as `source_…`, where the run has them.
CARRIED = (
    *("prompt_id", "sample_index", "variant", "model", "negative_prompt", "seed", "steps", "guidance_scale"),
    *("width", "height", "file_name", "sha256"),
)
PREFIX = "source_"
_TEXT = pa.string()
#: What a job reads as the row's own; a column of the run's prompts that is called so goes on as `source_…` too.
_OWN = {"prompt": _TEXT, "id": _TEXT, "image": _TEXT, "mask": _TEXT}


@dataclass
class SourceRows:
    """The rows of a run that meet a condition; those that did not succeed only where the condition names `status`.

    Args:
        run: The run.
        where: The condition, of SQL over the manifest.
        images: Whether rows have their pictures; one that has several views is a row for each.
    """

    run: Run
    where: str | None
    images: bool
    seen: int = 0
    """Rows with a result, once they are read."""
    chosen: int = 0
    """Rows that meet the condition, once they are read."""
    problems: list[str] = field(default_factory=list)
    """What keeps pictures from being read, once rows are."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of the rows."""
        types = {name: self._manifest.field(name).type for name in self._names.values()}
        own = {name: type_ for name, type_ in _OWN.items() if name != "mask" and (self.images or name != "image")}
        return pa.schema([*own.items(), *((new, types[old]) for new, old in self._names.items())])

    def check_condition(self) -> None:
        """Refuse a condition that cannot be asked of the run's rows.

        Raises:
            SpecError: it cannot.
        """
        if self.where is not None:
            check_condition(self.where, self._manifest)

    def tables(self) -> Iterator[pa.Table]:
        """Read the rows, in the order of the run's plan.

        Raises:
            SpecError: a row is of a video where pictures are wanted.
            StorageError: the run cannot be read.
        """
        names_status = self.where is not None and "status" in find_columns(self.where, self._manifest.names)
        for table in iter_rows(self.run.store, None, plan=self.run.plan):
            self.seen += table.num_rows
            table = fit_columns(table, self._manifest)
            if not names_status:
                table = table.filter(pc.equal(table["status"], OK))
            if self.where is not None:
                table = filter_rows(table, self.where)
            self.chosen += table.num_rows
            rows = [new for row in table.to_pylist() for new in self._rows_of(row)]
            yield pa.Table.from_pylist(rows, self.schema)

    @cached_property
    def _manifest(self) -> pa.Schema:
        return manifest_schema(self.run.plan.schema)

    @cached_property
    def _names(self) -> dict[str, str]:
        """Columns of the manifest by the names under which they go on."""
        names = {f"{PREFIX}{name}": name for name in CARRIED if name in self._manifest.names}
        fixed = {*fixed_columns().names, *names, *_OWN, *self._params}
        taken = {name.casefold() for name in fixed}
        for name, _ in self.run.plan.columns:
            new = name
            while new.casefold() in taken:
                new = f"{PREFIX}{new}"
            names[new] = name
            taken.add(new.casefold())
        return names

    @property
    def _params(self) -> set[str]:
        """Columns of the run that are of its parameters, not of its prompts."""
        specs = self.run.record.specs.values()
        return {name for spec in specs for name in (*find_axes(spec), *spec.prompts.fields.others) if is_other(name)}

    def _rows_of(self, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        own = {"prompt": row["prompt"], "id": row["request_id"], **{new: row[old] for new, old in self._names.items()}}
        if not self.images:
            yield own
            return
        try:
            images = self._images_of(row)
        except (StorageError, ValueError) as error:
            self.problems.append(f"{self.run.url}: row {row['request_id']}: {error}")
            return
        for view, image in enumerate(images or [None]):
            yield {**own, "id": f"{own['id']}-v{view}" if view else own["id"], "image": image}

    def _images_of(self, row: Mapping[str, Any]) -> list[str]:
        """The names of a row's pictures; with the part of it where one lies in a container."""
        kind = str(row["content_type"])
        if row["status"] == OK and not kind.startswith("image/"):
            raise SpecError(f"{self.run.url}: its rows are of {kind}, and input images are pictures")
        names = []
        for file in row_files(row):
            if not file.name.startswith(f"{ARTIFACTS}/"):
                raise ValueError(f"{file.name!r} is not a file of its artifacts")
            self._require_inside(file.name)
            names.append(
                file.name if file.offset_bytes is None else part_of(file.name, file.offset_bytes, file.size_bytes)
            )
        return names

    def _require_inside(self, name: str) -> None:
        if name not in self._opened:
            self._opened[name] = None
            if "://" not in self.run.url:  # of objects there are no links
                self.run.store.open(name).close()

    @cached_property
    def _opened(self) -> dict[str, None]:
        return {}
