"""`avbatch lock`: pins what a spec names from outside of itself, and `run --locked` holds a job to it.

A spec names a model, a prompt dataset and, silently, the installed packages; each may change under it. The lock file
beside the spec has the content of all of them, small and made to be committed: digests of the prompts, of their input
images, of the weights' files and of the model's card, the revision of a model of the hub, versions of packages that can
change pixels.

Not covered: the machine that generates (`verify` and `diff` name what differs there).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from abstractvision_batch.errors import SpecError, StorageError
from abstractvision_batch.job.load import Job, JobLike
from abstractvision_batch.plan.build import digest_inputs, prompts_digest
from abstractvision_batch.prompts.frames import as_job
from abstractvision_batch.registry.weights import Weights
from abstractvision_batch.runs.environment import describe_software, differing_values
from abstractvision_batch.storage.json_file import read_local_json
from abstractvision_batch.verbs.model_check import check_model, find_weights, workers_are_here

logger = logging.getLogger(__name__)

FORMAT = 1
#: Input images that are listed by name; where there are more, one digest stands for all.
LISTED_INPUTS = 1000
#: Differences that a message names.
SHOWN = 10


def lock_path(spec_path: str | Path) -> Path:
    """The lock file of a spec: `jobs/a.yaml` has `jobs/a.lock.json`."""
    return Path(spec_path).with_suffix(".lock.json")


def lock(job: JobLike, path: str | Path | None = None) -> Path:
    """Write the lock file of a spec, replacing one that is there.

    Args:
        job: The job.
        path: Where to; by default beside the spec.

    Raises:
        SpecError: the prompts cannot be read, or the spec is no file and `path` is not given.
        DependencyError: the model is not there.
        StorageError: the lock file cannot be written.
    """
    job = as_job(job)
    target = _target(job, path)
    text = json.dumps(describe_lock(job), indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error.strerror or error} (choose another place)") from error
    return target


def require_locked(job: Job, path: str | Path | None = None) -> Job:
    """Refuse a job that is not what its lock file says.

    Returns:
        The job, planned by the rules of the version that locked it.

    Raises:
        SpecError: there is no lock file, it is damaged, or something differs; one line for each that does.
        DependencyError: the model is not there.
    """
    target = _target(job, path)
    try:
        locked = read_local_json(target)
    except OSError as error:
        raise SpecError(f"{target}: {error.strerror or error} (avbatch lock {job.path} writes it)") from error
    except ValueError as error:
        raise SpecError(f"{target}: not JSON ({error}) (avbatch lock {job.path} writes it again)") from error
    if not isinstance(locked, dict) or locked.get("format") != FORMAT:
        raise SpecError(f"{target}: no lock file of this version (avbatch lock {job.path} writes it again)")
    if isinstance(version := locked.get("fingerprint_version"), int):
        job = job.under(version)
    now = describe_lock(job)
    if now["weights"] is None and not workers_are_here(job):
        logger.warning("%s: weights are not compared: the cluster's workers load them, not this process", target)
        now["weights"] = locked.get("weights")
        for name, there in now.get("variants", {}).items():
            there["weights"] = locked.get("variants", {}).get(name, {}).get("weights")
    try:
        found = [f"{target}: {said}" for said in _differences(locked, now)]
    except (ValueError, TypeError, AttributeError) as error:
        raise SpecError(f"{target}: damaged: {error} (avbatch lock {job.path} writes it again)") from error
    if found:
        more = [f"{target}: and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        hint = f"{target}: put back what differs, or lock what is there now (avbatch lock {job.path})"
        problems = (*found[:SHOWN], *more, hint)
        raise SpecError("\n".join(problems), problems=problems)
    return job


def describe_lock(job: Job) -> dict[str, Any]:
    """What a job would run with now, as JSON types.

    Raises:
        SpecError: the prompts cannot be read.
        DependencyError: the model is not there.
    """
    digest = prompts_digest(job)
    inputs, files = digest_inputs(job)
    check_model(job)
    models = {variant.variant: _describe_model(variant) for variant in job.variants}
    return {
        "format": FORMAT,
        "name": job.spec.name,
        **models.get(None, {"model": None, "card": None, "weights": None, "variants": models}),
        "fingerprint": job.fingerprint(digest),
        "fingerprint_version": job.version,
        "prompts": digest,
        "inputs": None if inputs is None else {"digest": inputs, "files": files if len(files) <= LISTED_INPUTS else {}},
        "software": describe_software(),
    }


def _describe_model(job: Job) -> dict[str, Any]:
    """Return what a job without variants, or one of them, is made with."""
    weights = find_weights(job)
    card = json.dumps(job.card.to_json(), sort_keys=True, ensure_ascii=False)
    return {
        "model": job.spec.model,
        "card": hashlib.sha256(card.encode()).hexdigest(),
        "weights": None if weights is None else weights.to_json(),
    }


def _differences(locked: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    plain = list(_plain_differences(locked, now, ("model", "prompts", "card")))
    yield from plain
    before, after = locked.get("variants", {}), now.get("variants", {})
    if {*before} != {*after}:
        yield f"variants: {', '.join(sorted(before)) or 'none'} locked, {', '.join(sorted(after)) or 'none'} now"
    for variant in (name for name in after if name in before):
        one, other = before[variant], after[variant]
        yield from (f"variant {variant}: {said}" for said in _plain_differences(one, other, ("model", "card")))
        yield from (f"variant {variant}: {said}" for said in _weights_differences(one.get("weights"), other["weights"]))
    if not plain and locked.get("fingerprint") != now["fingerprint"]:
        yield "the spec: a field that changes pixels is not what it was"
    if locked.get("inputs") is not None:  # a lock file of an earlier version does not have them
        yield from _input_differences(locked["inputs"], now["inputs"] or {"digest": None, "files": {}})
    yield from _weights_differences(locked.get("weights"), now["weights"])
    for name, before, after in differing_values(locked.get("software", {}), now["software"]):
        yield f"{name}: {_short(before)} locked, {_short(after)} now"


def _plain_differences(locked: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if locked.get(name) != now[name]:
            yield f"{name}: {_short(locked.get(name))} locked, {_short(now[name])} now"


def _input_differences(locked: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    before, after = locked.get("files") or {}, now["files"]
    names = [name for name in before if name in after and before[name] != after[name]]
    for name in names:
        yield f"input image {name}: {_short(before[name])} locked, {_short(after[name])} now"
    if not names and locked.get("digest") != now["digest"]:
        yield f"input images: {_short(locked.get('digest'))} locked, {_short(now['digest'])} now"


def _weights_differences(locked: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> Iterator[str]:
    if locked is None or now is None:
        if locked != now:
            yield f"weights: {'none' if locked is None else 'some'} locked, {'none' if now is None else 'some'} now"
        return
    before, after = Weights.from_json(locked), Weights.from_json(now)
    for name in before.differing_files(after):
        one, other = before.files.get(name), after.files.get(name)
        was, there = (_short(None if file is None else file.sha256) for file in (one, other))
        yield f"weights: {name}: {was} locked, {there} now"


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) < 40 else text[:12]


def _target(job: Job, path: str | Path | None) -> Path:
    if path is not None:
        return Path(path)
    if not Path(job.path).is_file():
        raise SpecError(f"{job.path}: a spec that is no file has no place for its lock file (say where it is)")
    return lock_path(job.path)
