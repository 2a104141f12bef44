"""What a job needs from outside of its spec: secrets, a GPU, extras of the package, and the files that it names."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from abstractvision_batch.backends.table import list_backends
from abstractvision_batch.errors import SpecError
from abstractvision_batch.execute.executor_choice import uses_gpu
from abstractvision_batch.job.fields import FromEnv
from abstractvision_batch.job.load import Job, read_values
from abstractvision_batch.job.marks import Uploaded
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.ray_sections import ActorRange
from abstractvision_batch.job.time_fields import find_timed_texts
from abstractvision_batch.job.walk import find_parts, leaves
from abstractvision_batch.prompts.hub_datasets import is_on_hub
from abstractvision_batch.prompts.sources import source_names
from abstractvision_batch.storage.scratch import scratch_folder
from abstractvision_batch.storage.urls import is_remote
from abstractvision_batch.submit.package import pack_job

#: URLs of this machine's own files and memory.
_HERE = ("file:", "local:", "memory:")
#: Which extra reads and writes a URL.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}


@dataclass(frozen=True, slots=True)
class JobFiles:
    """A spec and the files that it names, as a folder that can be put elsewhere: paths in it stay true."""

    spec: str
    """Path of the spec in the folder."""
    registry: tuple[str, ...]
    """Paths in the folder of what `--registry` named."""
    files: Mapping[str, bytes]
    """Every file by its path in the folder."""
    overrides: tuple[str, ...]
    """`--set` of what a path or variable here does not mean there."""
    notes: tuple[str, ...]
    """What is not among the files, and must be there."""


def find_secrets(job: Job) -> list[str]:
    """Environment variables that the spec names as secrets, sorted."""
    values = (part.value for spec in job.specs for leaf in leaves(JobSpec, spec) for part in leaf.parts())
    return sorted({value.env for value in values if isinstance(value, FromEnv)})


def is_for_ray(job: Job) -> bool:
    """Return whether the spec wants a Ray cluster wherever it runs; this machine's GPUs say nothing."""
    execution = job.spec.execution
    return execution.executor == "ray" or (execution.executor == "auto" and execution.address is not None)


def actor_range(job: Job) -> tuple[int, int] | None:
    """Fewest and most actors that the spec asks for; None where it leaves that to the cluster."""
    actors = job.spec.execution.actors
    if isinstance(actors, ActorRange):
        return actors.min, actors.max
    return None if actors == "auto" else (actors, actors)


def cpus_of_actor(job: Job) -> float:
    """CPUs that one actor takes."""
    wanted = ((spec.execution.cpus_per_actor, spec.backend.cpus) for spec in job.specs)
    return max(float(own) if cpus == "auto" else cpus for cpus, own in wanted)


def actors_of_node(job: Job, gpus: int, cpus: int | None) -> int:
    """Actors that a node with so many GPUs holds, at least one; without GPUs its CPUs decide, if they are given."""
    share = job.spec.execution.gpus_per_actor
    if gpus:
        return max(1, int(gpus / (share if share != "auto" and share > 0 else 1.0)))
    return 1 if cpus is None else max(1, int(cpus / cpus_of_actor(job)))


def needed_packages(job: Job, *, gpus: int = 0) -> list[str]:
    """Return this package with the extras that the job's machines need, and the package that brings the backend.

    Each of the machines has so many GPUs.
    """
    spec = job.spec
    entries = {one.backend.kind: list_backends()[one.backend.kind] for one in job.specs}
    extras = {kind for kind, entry in entries.items() if entry.install}
    if is_for_ray(job) or (gpus > 1 and spec.execution.executor == "auto" and any(map(uses_gpu, job.specs))):
        extras.add("ray")
    if spec.prompts.grammar is not None:
        extras.add("dynamic")
    for url in (spec.output.path, *source_names(job)):
        extras |= {extra for scheme, extra in _EXTRAS.items() if url.startswith(f"{scheme}://")}
        extras |= {"datasets"} if is_on_hub(url) else set()
    ours = f"abstractvision_batch[{','.join(sorted(extras))}]" if extras else "abstractvision_batch"
    return [ours, *(entry.package.replace(" ", "==") for entry in entries.values() if entry.package)]


def require_output_elsewhere(job: Job, why: str, mounts: Sequence[str] = ()) -> None:
    """Refuse an output on a disk that is not there afterwards.

    Args:
        job: The job.
        why: What becomes of the disk where the job runs.
        mounts: Folders there that stay.

    Raises:
        SpecError: the output is neither a URL nor below a mount.
    """
    path = job.spec.output.path
    if (is_remote(path) and not path.startswith(_HERE)) or any(
        PurePosixPath(path).is_relative_to(mount) for mount in mounts
    ):
        return
    place = job.at("output.path")
    hint = "a URL, or a folder on a --volume" if why.startswith("a pod") else "a URL"
    raise SpecError(f"{place}: {path} would be lost: {why} ({hint})")


def require_fixed_files(job: Job) -> None:
    """Refuse prompts in another local file at every time, of which only the latest one is here to be packaged.

    Raises:
        SpecError: they are.
    """
    texts = find_timed_texts(read_values(job.given).data)
    timed = any(path[:2] == ("prompts", "source") for path in texts)
    if timed and not all(map(is_remote, source_names(job))):
        place = job.at("prompts.source")
        raise SpecError(f"{place}: another file of this machine at every time (put them on storage)")


def require_runtime_env_elsewhere(job: Job) -> None:
    """Refuse what Ray's runtime environment would take from a disk that workers elsewhere do not have.

    Raises:
        SpecError: a folder or file of it is no URL; the message has the first.
    """
    for part in find_parts(JobSpec, job.spec, Uploaded):
        if not is_remote(part.value):
            raise SpecError(
                f"{job.at(part.path)}: {part.value} is on this machine alone "
                "(put it into the image, or on storage and name it by URL)"
            )


def collect_files(job: Job) -> JobFiles:
    """The spec, its local prompt files and input images, and its model cards.

    Raises:
        SpecError: a prompt is wrong, or a path can mean nothing elsewhere.
    """
    with scratch_folder() as folder:
        package = pack_job(job, folder / "job.zip", limit_bytes=sys.maxsize)
        with zipfile.ZipFile(package.path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
    return JobFiles(package.spec, package.registry, files, package.overrides, package.notes)
