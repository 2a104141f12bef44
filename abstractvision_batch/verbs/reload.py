"""Reload a run from its `run.json`: its spec, its card, its plan.

`retry`, `rerun` and `verify` give the run's own pixels, so they start here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from abstractvision_batch.backends.table import list_backends
from abstractvision_batch.errors import DependencyError, SpecError
from abstractvision_batch.job.env import escape_references
from abstractvision_batch.job.load import Job, load_job
from abstractvision_batch.job.variants import change_variants
from abstractvision_batch.runs.files import RECORD
from abstractvision_batch.runs.opened import Run
from abstractvision_batch.runs.record import describe_difference
from abstractvision_batch.verbs.start import as_begun, require_installed
from abstractvision_batch.verbs.trust import require_trust


def load_recorded(
    run: str | Path | Job | Run,
    source: Run,
    *,
    verb: str,
    overrides: Sequence[str] = (),
    trust: bool = False,
) -> Job:
    """The spec to run with, checked to give the run's pixels and to do nothing that only a stranger asks for.

    Args:
        run: The spec that wrote the run, which then says how; or its place, whose `run.json` says, card included.
        source: The run, opened.
        verb: What the error message calls this, as ``a retry``.
        overrides: ``dotted.key=value`` strings for fields that change no pixel.
        trust: Whether servers, secrets, programs and paths that the run recorded may be used, whoever started it.

    Raises:
        SpecError: it is wrong, it would give other pixels, or it is to be trusted first.
        DependencyError: what its backend or executor imports is not installed.
    """
    record = source.record
    if isinstance(run, Job):
        require_installed(run)
        job = as_begun(run, record)
    else:
        _require_backend(source)
        recorded = load_job(
            change_variants(record.data["spec"], escape_references),
            base_dir=record.base_dir,
            overrides=overrides,
            cards=record.cards,
            scheduled_at=record.scheduled_at,
        )
        require_trust(source, recorded, verb=verb, overrides=overrides, trust=trust)
        require_installed(recorded)
        job = recorded
    job = job.under(record.fingerprint_version)
    # The prompts are in the plan already: their dataset is not read again.
    digest = record.plan.prompts_digest
    if record.fingerprint != job.fingerprint(digest):
        differing = describe_difference(record, job, digest)
        raise SpecError(
            f"{record.data['name']}: {verb} gives the run's own pixels, and these fields would change them: "
            f"{differing} (leave them as they are, or start a new run)"
        )
    return job


def _require_backend(source: Run) -> None:
    """Refuse to generate what no installed backend generates."""
    missing = [spec.backend.kind for spec in source.record.specs.values() if spec.backend.kind not in list_backends()]
    if not missing:
        return
    kind = missing[0]
    package = source.record.data["environment"].get("backend_packages", {}).get(kind)
    hint = f" (install {package}, which the run had it from)" if package else ""
    raise DependencyError(f"{source.store.url_of(RECORD)}: backend {kind}: no installed package brings it{hint}")
