"""`avbatch submit`: a job sent to a Ray cluster through its Jobs API, where `avbatch run` runs it.

    spec.yaml → load and check → package → job on the cluster

Everything that can be wrong here is found before anything is sent. Secrets go by name, and the cluster has their
values: Ray writes a job's environment variables into a log of its own and tells them to whoever asks its API.

Not covered: looking after the job (`jobs`).
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import GivenSpec, Job, load_job
from abstractvision_batch.job.ray_sections import RuntimeEnvSpec
from abstractvision_batch.prompts.images import PACKAGED
from abstractvision_batch.registry.cards import CARDS_IN_PACKAGE, packaged_folder
from abstractvision_batch.storage.scratch import scratch_folder
from abstractvision_batch.submit.jobs import (
    META_NAME,
    META_OPTIONS,
    META_OUTPUT,
    META_SCHEDULED,
    META_VERSION,
    choose_address,
)
from abstractvision_batch.submit.package import JobPackage, pack_job
from abstractvision_batch.submit.ray_jobs import PACKAGE_LIMIT_BYTES, RayJobs
from abstractvision_batch.version import __version__

#: Seconds that Ray leaves a stopped job before it kills it, 3 by default. A run ends its drain by itself, when its
#: shards are done or after `execution.drain_timeout_s`, which may be as long as this.
DRAIN_LIMIT_S = 2_592_000


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that was sent."""

    id: str
    address: str
    name: str
    output: str
    files: dict[str, int]
    """How many files of each kind went with it."""
    package_bytes: int
    notes: tuple[str, ...]
    """What the cluster must have."""


def submit(
    spec: str | Path | GivenSpec,
    *,
    address: str | None = None,
    submission_id: str | None = None,
    extend: bool = False,
    locked: bool = False,
    ship_package: bool = False,
) -> Submission:
    """Send a job to a cluster.

    Args:
        spec: Path of a YAML file, or how it was given.
        address: Of the cluster's dashboard, as ``http://head:8265``; by default `RAY_API_SERVER_ADDRESS`,
            `RAY_ADDRESS` or the spec's `execution.address`, the first that is such a URL.
        submission_id: The job's id; by default the spec's name and some digits.
        extend: As of `run`.
        locked: As of ``run --locked``.
        ship_package: Send this package too: the cluster then needs only what it imports.

    Raises:
        SpecError: the spec is wrong, its output is on this machine, or the cluster had a job of this id.
        DependencyError: Ray's client is not installed.
        ClusterError: the cluster cannot be reached, or refused the job.
    """
    given = GivenSpec.of(spec)
    job = load_job(given, overrides=["execution.executor=ray"])
    output_notes = tuple(_check_output(job))
    _check_runtime_env(job)
    address = choose_address(address, job.spec.execution.address)
    submission_id = submission_id or f"{job.spec.name}-{secrets.token_hex(3)}"
    with scratch_folder() as folder:
        package = pack_job(job, folder / "job.zip", limit_bytes=PACKAGE_LIMIT_BYTES)
        runtime_env = build_runtime_env(job.spec.execution.runtime_env, package.path)
        if ship_package:
            runtime_env["py_modules"] = [*runtime_env.get("py_modules", ()), str(copy_own_package(folder))]
        RayJobs(address).submit(
            write_entrypoint(_as_packaged(given, package, job), extend=extend, locked=locked),
            submission_id=submission_id,
            runtime_env=runtime_env,
            metadata=_describe(job),
        )
    return Submission(
        id=submission_id,
        address=address,
        name=job.spec.name,
        output=job.spec.output.path,
        files=dict(package.files),
        package_bytes=package.size_bytes,
        notes=(*output_notes, *package.notes),
    )


def copy_own_package(folder: Path) -> Path:
    """Copy this package below `folder` as a wheel has it, with the model cards inside. Returns the copy's folder."""
    own = Path(__file__).parents[1]
    copy = shutil.copytree(own, folder / own.name, ignore=shutil.ignore_patterns("__pycache__"))
    if not (copy / CARDS_IN_PACKAGE).is_dir():
        shutil.copytree(packaged_folder(), copy / CARDS_IN_PACKAGE)
    return copy


def build_runtime_env(of_spec: RuntimeEnvSpec, package: Path) -> dict[str, Any]:
    """The job's environment: its driver has that of the workers, and starts in the package as they do."""
    told = of_spec.for_ray()
    env_vars = {"RAY_JOB_STOP_WAIT_TIME_S": str(DRAIN_LIMIT_S), **told.get("env_vars", {}), PACKAGED: "1"}
    return {**told, "working_dir": str(package), "env_vars": env_vars}


def _left_to_the_run(of_spec: RuntimeEnvSpec) -> Iterator[str]:
    """`--set` for what the run itself does of `execution.runtime_env`: secrets. Ray is not told the rest twice."""
    if of_spec != RuntimeEnvSpec():
        named = {name: {"env": secret.env} for name, secret in of_spec.secrets().items()}
        yield f"execution.runtime_env={json.dumps({'env_vars': named})}"


def _as_packaged(given: GivenSpec, package: JobPackage, job: Job) -> GivenSpec:
    """Return how the spec is given in the unpacked package; the job's own cluster is the one it runs on."""
    said = (*given.overrides, *_left_to_the_run(job.spec.execution.runtime_env), *package.overrides)
    return GivenSpec(
        package.spec,
        (*said, "execution.executor=ray", "execution.address=null"),
        package.registry,
        given.scheduled_at,
    )


def write_entrypoint(given: GivenSpec, *, extend: bool, locked: bool) -> str:
    """Return the command that the cluster runs in the unpacked package."""
    command = ["python", "-m", "abstractvision_batch", *given.argv()]
    command += ["--extend"] * extend + ["--locked"] * locked
    return f"exec {shlex.join(command)}"  # exec: Ray's signal and its exit code are the run's, not a shell's


def _describe(job: Job) -> Mapping[str, str]:
    output = job.spec.output.model_dump(mode="json")
    said = {
        META_VERSION: __version__,
        META_NAME: job.spec.name,
        META_OUTPUT: output["path"],
        META_OPTIONS: json.dumps(output["storage_options"]),
    }
    return said if job.scheduled_at is None else {**said, META_SCHEDULED: job.scheduled_at.isoformat()}


def _check_runtime_env(job: Job) -> None:
    if (folder := job.spec.execution.runtime_env.working_dir) is not None:
        raise SpecError(
            f"{job.at('execution.runtime_env.working_dir')}: {folder}: a submitted job starts in the folder of "
            "its own files (leave it out, or name code in py_modules)"
        )


def _check_output(job: Job) -> Iterator[str]:
    """What the cluster must have of the output.

    Raises:
        SpecError: it would be on the cluster's head alone, or in its memory.
    """
    path = job.spec.output.path
    place = job.at("output.path")
    mend = "write a URL, as s3://bucket/run, or an absolute path of a folder that all nodes share"
    if path.startswith("memory:"):
        raise SpecError(f"{place}: {path} would be in the memory of one process ({mend})")
    if "://" not in path and not os.path.isabs(path):  # noqa: PTH117  "~" is no absolute path elsewhere
        raise SpecError(f"{place}: {path} is relative: it would be a folder of the cluster's head alone ({mend})")
    if path.startswith(("/", "file:", "local:")):
        yield f"output.path: {path} must be a folder that every node of the cluster shares"
