"""Reload a run from its `run.json`: its spec, its card, its plan.

`retry`, `rerun` and `verify` give the run's own pixels, so they start here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.env import escape_references, resolve_options
from abstractvision_batch.job.load import LoadedSpec, spec_from_mapping
from abstractvision_batch.runs.opened import Run, open_run
from abstractvision_batch.runs.record import describe_difference
from abstractvision_batch.verbs.start import as_begun, load
from abstractvision_batch.verbs.trust import require_trust


def find_run(run: str | Path | LoadedSpec, storage_options: Mapping[str, Any] | None) -> Run:
    """The run, by its place or by its spec.

    Raises:
        SpecError: it was not started.
    """
    if not isinstance(run, LoadedSpec):
        return open_run(run, storage_options)
    output = run.spec.output
    options = resolve_options(output.storage_options, "output.storage_options", given=storage_options)
    return open_run(output.path, options)


def load_recorded(
    run: str | Path | LoadedSpec,
    source: Run,
    *,
    verb: str,
    overrides: Sequence[str] = (),
    trust: bool = False,
) -> LoadedSpec:
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
    if isinstance(run, LoadedSpec):
        loaded = as_begun(load(run), record)
    else:
        recorded = spec_from_mapping(
            escape_references(record.data["spec"]),
            base_dir=record.base_dir,
            overrides=overrides,
            card=record.card,
            scheduled_at=record.scheduled_at,
        )
        require_trust(source, recorded, verb=verb, overrides=overrides, trust=trust)
        loaded = load(recorded)
    loaded = loaded.under(record.fingerprint_version)
    # The prompts are in the plan already: their dataset is not read again.
    digest = record.plan.prompts_digest
    if record.fingerprint != loaded.fingerprint(digest):
        differing = describe_difference(record, loaded.spec, prompts_digest=digest, card=loaded.card)
        raise SpecError(
            f"{record.data['name']}: {verb} gives the run's own pixels, and these fields would change them: "
            f"{differing} (leave them as they are, or start a new run)"
        )
    return loaded
