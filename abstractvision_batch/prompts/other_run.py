"""Another run as a prompt dataset: `source: {run: s3://bucket/a, where: "width > 512"}`."""

from __future__ import annotations

from pathlib import Path

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import Job
from abstractvision_batch.prompts.mapping import IMAGE_TASKS
from abstractvision_batch.prompts.source_files import SourceFile, write_rows
from abstractvision_batch.runs.as_source import SourceRows
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.text.redaction import bare_url


def find_run_rows(job: Job, run: str, where: str | None, scratch: Path) -> SourceFile:
    """Put the rows of a run into a local file; relative names of pictures in it start at the run's store.

    Args:
        job: The job that they are prompts of.
        run: Folder or URL of the run, where a relative path starts at the current folder, as that of an output.
        where: Which rows.
        scratch: Where the file is put.

    Raises:
        SpecError: there is no run, no row that meets the condition, or a row without the picture that the task needs.
        DependencyError: the driver of its store is not installed.
        StorageError: it cannot be read.
    """
    place = at = job.at("prompts.source.run")
    with job.blame("prompts.source.run"):
        try:
            source = open_run(run if "://" in run else Path(run).expanduser().absolute(), job.prompt_options())
            rows = SourceRows(source, where, images=job.spec.task in IMAGE_TASKS)
            path = scratch / "run.parquet"
            at = job.at("prompts.source.where")
            rows.check_condition()
            at = place
            digest = write_rows(path, rows.schema, rows.tables())
        except SpecError as error:
            raise SpecError(f"{at}: {error}") from error
    if rows.problems:
        problems = tuple(f"{place}: {line}" for line in rows.problems)
        raise SpecError("\n".join(problems), problems=problems)
    shown, plan = bare_url(source.url), source.plan
    if not rows.chosen:
        why = "no row of it succeeded" if where is None else f"none of its {rows.seen:,} rows meets where"
        raise SpecError(f"{place}: {shown}: {why}, so there is no prompt (avbatch status {shown})")
    missing = plan.requests - rows.seen
    notes = (
        (f"{shown}: {missing:,} of its {plan.requests:,} requests have no result yet (--extend adds them later)",)
        if missing
        else ()
    )
    record = source.record
    origin = {
        "run": shown,
        "run_id": record.revisions[0]["run_id"],
        "fingerprint": record.fingerprint,
        "rows": rows.chosen,
        "rows_sha256": digest,
    }
    return SourceFile(shown, path, source.url, "parquet", digest, origin, notes)
