"""A RayJob of KubeRay: a Ray cluster made for one job, of a head that only drives and a group of workers that generate.

The driver runs on the head, as Ray's own job, and is started again on a new cluster when it fails; it resumes there.
The schedule is a RayCronJob: released since KubeRay 1.6 behind a feature gate that is off by default, with a time zone
since 1.7. It has no policy for runs that overlap: the next starts beside one that is not done, with pods of its own.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from abstractvision_batch.emit.emission import Emission
from abstractvision_batch.emit.needs import JobFiles, actor_range, actors_of_node, cpus_of_actor
from abstractvision_batch.emit.pods import (
    RUN_SCRIPT,
    PodOptions,
    container,
    container_security,
    metadata,
    pod_security,
    pod_spec,
    resources_of,
)
from abstractvision_batch.emit.yaml_text import Note
from abstractvision_batch.errors import SpecError
from abstractvision_batch.execute.executor_choice import uses_gpu
from abstractvision_batch.execute.ray.gpu_memory import ACCELERATOR

#: The first with token authentication.
OLDEST_RAY = (2, 52, 0)
HEAD_CPUS = 2
HEAD_MEMORY = "4Gi"
#: How long the cluster is kept once the job is done: long enough to read its logs, short enough for its price.
KEEP_CLUSTER_S = 60
#: An idle worker is given back after so long, where the number of workers is a range.
IDLE_S = 300
_RESOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]*")


@dataclass(frozen=True, slots=True)
class RayOptions:
    """What a Ray cluster is to be."""

    ray_version: str | None = None
    """Of the image; by default the one that is installed here."""
    workers: tuple[int, int] | None = None
    """Fewest and most pods; by default as many as the spec's actors need."""

    @property
    def ray_version_of_image(self) -> str:
        """The version, as numbers.

        Raises:
            SpecError: it was not given and there is no Ray here, or KubeRay could not make use of it.
        """
        try:
            version = self.ray_version or importlib.metadata.version("ray")
        except importlib.metadata.PackageNotFoundError as error:
            raise SpecError(
                "--ray-version: is missing, and there is no Ray here (that of the image, as 2.60.0)"
            ) from error
        if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", version) or tuple(map(int, version.split("."))) < OLDEST_RAY:
            raise SpecError(f"--ray-version: {version!r} is no version from 2.52.0 on (that of the image, as 2.60.0)")
        return version


def ray_object(
    emission: Emission,
    options: PodOptions,
    ray_options: RayOptions,
    name: str,
    files: JobFiles,
    *,
    kind: str,
) -> dict[str | Note, Any]:
    """The RayJob, or the RayCronJob that makes one at every tick."""
    job = _ray_job_spec(emission, options, ray_options, name, files)
    start: dict[str | Note, Any] = {
        "apiVersion": "ray.io/v1",
        "kind": kind,
        "metadata": metadata(name, options.namespace),
    }
    if emission.ticks is None:
        return {**start, "spec": job}
    schedule = {"schedule": emission.ticks.cron, "timeZone": emission.ticks.timezone, "jobTemplate": job}
    return {**start, "spec": schedule}


def _ray_job_spec(
    emission: Emission, options: PodOptions, ray_options: RayOptions, name: str, files: JobFiles
) -> dict[str | Note, Any]:
    return {
        Note("The driver; it sends shard numbers to the workers and needs no GPU."): None,
        "entrypoint": f"bash {RUN_SCRIPT}",
        "submissionMode": "K8sJobMode",
        "submitterPodTemplate": _template(name, _submitter(options)),
        Note(
            "Each further start makes a new cluster and resumes there. KubeRay makes one also where that is no use,"
        ): None,
        Note("as rows failed (1), the spec is wrong (2) or something is missing (3): it ends the same, at once."): None,
        "backoffLimit": options.retries,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": KEEP_CLUSTER_S,
        "rayClusterSpec": _cluster(emission, options, ray_options, name, files),
    }


def _cluster(
    emission: Emission, options: PodOptions, ray_options: RayOptions, name: str, files: JobFiles
) -> dict[str | Note, Any]:
    gpus, actors = _gpus_and_actors(emission, options)
    fewest, most = _workers(emission, ray_options, actors)
    cluster: dict[str | Note, Any] = {
        Note("That of the image; with it KubeRay switches on Ray's token authentication."): None,
        "rayVersion": ray_options.ray_version_of_image,
        "authOptions": {"mode": "token"},
    }
    if fewest < most:
        cluster["enableInTreeAutoscaling"] = True
        # Of the autoscaler's own image, whose disk KubeRay does not make read-only.
        security = {key: value for key, value in container_security(options).items() if key != "readOnlyRootFilesystem"}
        cluster["autoscalerOptions"] = {"idleTimeoutSeconds": IDLE_S, "securityContext": security}
    head = container(emission, options, name, own_name="ray-head", resources=resources_of(HEAD_CPUS, HEAD_MEMORY, 0))
    head["env"] = [
        *head.get("env", []),
        {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": str(emission.grace_s)},
    ]
    worker = container(
        emission, options, name, own_name="ray-worker", resources=_resources(emission, options, gpus, actors)
    )
    cluster["headGroupSpec"] = {
        Note("No shard runs here."): None,
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},
        "template": _template(name, pod_spec(emission, options, name, files, head, gpus=0, selected=False)),
    }
    cluster["workerGroupSpecs"] = [
        {
            "groupName": "workers",
            "replicas": fewest,
            "minReplicas": fewest,
            "maxReplicas": most,
            "rayStartParams": _custom_resources(emission, actors, grows=fewest < most),
            "template": _template(name, pod_spec(emission, options, name, files, worker, gpus=gpus)),
        }
    ]
    return cluster


def _submitter(options: PodOptions) -> dict[str | Note, Any]:
    """The pod that tells the cluster of the job; KubeRay adds its command."""
    resources = {"requests": {"cpu": "500m", "memory": "200Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    mounts = [{"name": "scratch", "mountPath": "/tmp"}] if options.read_only_root else []
    submitter: dict[str, Any] = {"name": "ray-job-submitter", "image": options.image, "resources": resources}
    if mounts:
        submitter["volumeMounts"] = mounts
    submitter["securityContext"] = container_security(options)
    pod: dict[str | Note, Any] = {"restartPolicy": "Never", "securityContext": pod_security(options)}
    if options.service_account is not None:
        pod["serviceAccountName"] = options.service_account
    pod["containers"] = [submitter]
    if mounts:
        pod["volumes"] = [{"name": "scratch", "emptyDir": {}}]
    return pod


def _template(name: str, spec: dict[str | Note, Any]) -> dict[str, Any]:
    return {"metadata": {"labels": metadata(name, None)["labels"]}, "spec": spec}


def _gpus_and_actors(emission: Emission, options: PodOptions) -> tuple[int, int]:
    """GPUs of a worker, and actors that fit on it."""
    if not uses_gpu(emission.job.spec) or options.gpus == 0:
        return 0, actors_of_node(emission.job, 0, options.cpus)
    share = emission.job.spec.execution.gpus_per_actor
    least = math.ceil(1 if share == "auto" else share)
    gpus = least if options.gpus is None else options.gpus
    if gpus < least:
        raise SpecError(f"--gpus: {gpus} of a pod are fewer than the {share} of one actor (execution.gpus_per_actor)")
    return gpus, actors_of_node(emission.job, gpus, options.cpus)


def _workers(emission: Emission, ray_options: RayOptions, actors: int) -> tuple[int, int]:
    """Fewest and most workers."""
    if ray_options.workers is not None:
        return ray_options.workers
    wanted = actor_range(emission.job)
    if wanted is None:
        return 1, 1
    return math.ceil(wanted[0] / actors), math.ceil(wanted[1] / actors)


def _resources(emission: Emission, options: PodOptions, gpus: int, actors: int) -> dict[str, Any]:
    cpus = options.cpus or math.ceil(cpus_of_actor(emission.job) * actors)
    return resources_of(cpus, options.memory or ("16Gi" if gpus else "4Gi"), gpus)


def _custom_resources(emission: Emission, actors: int, *, grows: bool) -> dict[str, str]:
    """What Ray counts of a worker beside CPUs and GPUs, quoted for the shell that KubeRay starts Ray with.

    Of a number of workers that grows the accelerator's type too, which Ray finds out on the node by itself: the
    autoscaler has to know it before there is one.
    """
    execution = emission.job.spec.execution
    counted = {name: amount * actors for name, amount in execution.resources.items()}
    if grows and execution.accelerator_type is not None:
        counted[f"{ACCELERATOR}{execution.accelerator_type}"] = 1.0
    for resource in counted:
        if not _RESOURCE_NAME.fullmatch(resource):
            raise SpecError(f"execution.resources: {resource!r} is no name for KubeRay (letters, digits and . _ / : -)")
    return {"resources": f"'{json.dumps(counted)}'"} if counted else {}


def actor_overrides(emission: Emission, options: PodOptions, ray_options: RayOptions) -> list[str]:
    """`--set` of what the driver must know of this cluster: it is in it, and how many actors its workers will hold."""
    overrides = [] if emission.job.spec.execution.address is None else ["execution.address=null"]
    _, actors = _gpus_and_actors(emission, options)
    fewest, most = _workers(emission, ray_options, actors)
    if fewest < most and actor_range(emission.job) is None:
        # `auto` is content with the room there is, and the autoscaler makes room for what is asked for.
        overrides.append(f"execution.actors={{min: {max(1, fewest * actors)}, max: {most * actors}}}")
    return overrides
