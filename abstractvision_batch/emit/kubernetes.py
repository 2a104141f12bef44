"""Manifests for Kubernetes: the job's files as a ConfigMap, and what runs them, once or on a schedule.

A job with the executor `ray` is a RayJob of KubeRay, which makes a Ray cluster for it and takes it away again
(`kuberay`); one with `inline` is one pod, a Job of Kubernetes itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from abstractvision_batch.emit.emission import Emission, EmittedFile, comment_lines, object_name
from abstractvision_batch.emit.kuberay import RayOptions, actor_overrides, ray_object
from abstractvision_batch.emit.needs import (
    JobFiles,
    collect_files,
    cpus_of_actor,
    is_for_ray,
    needed_packages,
    require_fixed_files,
    require_output_elsewhere,
    require_runtime_env_elsewhere,
)
from abstractvision_batch.emit.pods import (
    JOB_FOLDER,
    RUN_SCRIPT,
    PodOptions,
    check_pod_options,
    config_map,
    container,
    metadata,
    pod_spec,
    resources_of,
    secret_name,
)
from abstractvision_batch.emit.yaml_text import Note, write_yaml
from abstractvision_batch.execute.executor_choice import uses_gpu

#: A start that comes this much too late is left out; the next one is for the same or a later run.
DEADLINE_S = 3600
#: How long a finished Job can be looked at.
KEEP_JOB_S = 7 * 86_400
#: Characters of a name, of which the scheduler appends some to make the names of what it starts.
_NAME_LIMITS = {"RayCronJob": 36, "RayJob": 47, "CronJob": 52, "Job": 63}


def emit_kubernetes(
    emission: Emission, options: PodOptions, ray_options: RayOptions
) -> tuple[list[EmittedFile], list[str]]:
    """The manifests, as one file, and notes on what the cluster must have.

    Raises:
        SpecError: an option is wrong, or the job needs what a pod does not have: this machine's files.
    """
    check_pod_options(options)
    require_output_elsewhere(emission.job, "a pod's disk goes with it", tuple(options.volumes.values()))
    require_fixed_files(emission.job)
    require_runtime_env_elsewhere(emission.job)
    kind = _kind(emission)
    name = object_name(emission, _NAME_LIMITS[kind])
    files = collect_files(emission.job)
    told = actor_overrides(emission, options, ray_options) if kind.startswith("Ray") else []
    arguments = emission.arguments(f"{JOB_FOLDER}/{files.spec}", _there(files.registry), [*files.overrides, *told])
    documents = [config_map(name, options.namespace, files, ["avbatch", *arguments])]
    if is_for_ray(emission.job):
        documents.append(ray_object(emission, options, ray_options, name, files, kind=kind))
    else:
        documents.append(_job_object(emission, options, name, files, kind=kind))
    head = comment_lines(list(_head(emission, options, ray_options, name, kind)))
    text = head + "---\n".join(write_yaml(document) for document in documents)
    return [EmittedFile(f"{name}.yaml", text)], list(_notes(emission, options, files))


def _kind(emission: Emission) -> str:
    prefix = "Ray" if is_for_ray(emission.job) else ""
    return f"{prefix}{'Job' if emission.ticks is None else 'CronJob'}"


def _there(paths: tuple[str, ...]) -> list[str]:
    return [f"{JOB_FOLDER}/{path}" for path in paths]


def _job_object(
    emission: Emission, options: PodOptions, name: str, files: JobFiles, *, kind: str
) -> dict[str | Note, Any]:
    job = _job_spec(emission, options, name, files)
    start: dict[str | Note, Any] = {
        "apiVersion": "batch/v1",
        "kind": kind,
        "metadata": metadata(name, options.namespace),
    }
    if emission.ticks is None:
        return {**start, "spec": job}
    return {
        **start,
        "spec": {
            "schedule": emission.ticks.cron,
            "timeZone": emission.ticks.timezone,
            Note("A run that is not done when the next is due is finished first."): None,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": DEADLINE_S,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {"metadata": {"labels": metadata(name, None)["labels"]}, "spec": job},
        },
    }


def _job_spec(emission: Emission, options: PodOptions, name: str, files: JobFiles) -> dict[str | Note, Any]:
    gpus = int(uses_gpu(emission.job.spec)) if options.gpus is None else options.gpus
    cpus = options.cpus or math.ceil(cpus_of_actor(emission.job)) + 1
    resources = resources_of(cpus, options.memory or ("16Gi" if gpus else "4Gi"), gpus)
    pod_container = container(emission, options, name, own_name="avbatch", resources=resources)
    pod_container = {
        **{key: pod_container[key] for key in ("name", "image")},
        "command": ["bash", RUN_SCRIPT],
        **{key: value for key, value in pod_container.items() if key not in ("name", "image")},
    }
    pod: dict[str | Note, Any] = {"restartPolicy": "Never", "automountServiceAccountToken": False}
    if options.service_account is not None:
        pod = {"restartPolicy": "Never"}
    pod |= pod_spec(emission, options, name, files, pod_container, gpus=gpus)
    return {
        Note(
            "A further start resumes; one that would end the same way is not made: rows failed (1), the spec is"
        ): None,
        Note(
            "wrong (2), something is missing (3); after 4 (storage) and 70 (a fault of avbatch) it is. A node that"
        ): None,
        Note("goes away costs none of them."): None,
        "backoffLimit": options.retries,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1, 2, 3]}},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "ttlSecondsAfterFinished": KEEP_JOB_S,
        "template": {"metadata": {"labels": metadata(name, None)["labels"]}, "spec": pod},
    }


def _head(emission: Emission, options: PodOptions, ray_options: RayOptions, name: str, kind: str) -> Iterator[str]:
    space = f" --namespace {options.namespace}" if options.namespace is not None else ""
    file, object_ = f"{name}.yaml", f"{kind.lower()} {name}"
    pods = f"--selector app.kubernetes.io/instance={name}"
    yield f"The job {emission.job.spec.name} for Kubernetes, made by: {emission.made_by}"
    yield ""
    if emission.secrets:
        keys = " ".join(f'--from-literal={secret}="${secret}"' for secret in emission.secrets)
        yield f"  first   kubectl create secret generic {secret_name(name, options)}{space} {keys}"
    yield f"  apply   kubectl apply --server-side -f {file}"
    yield f"  look    kubectl get{space} {object_}; kubectl logs{space} -f {pods}"
    if emission.ticks is None:
        yield f'  stop    kubectl patch{space} {object_} --type merge -p \'{{"spec": {{"suspend": true}}}}\''
        yield f"  resume  kubectl replace --force -f {file}      (what is done is not generated again)"
    else:
        yield f'  stop    kubectl patch{space} {object_} --type merge -p \'{{"spec": {{"suspend": true}}}}\''
        yield "          (starts no more; a run that is under way is a job of its own, as kubectl get shows)"
        yield f"  remove  kubectl delete -f {file}"
    yield ""
    what = ", ".join(needed_packages(emission.job, gpus=options.gpus or 0))
    if kind.startswith("Ray"):
        yield f"{options.image} has {what}, Ray {ray_options.ray_version_of_image} with its"
        yield "dashboard (ray[default]), and bash. The cluster has KubeRay 1.5.1 or newer"
        if kind == "RayCronJob":
            yield "(for the schedule 1.7, with the feature gate RayCronJob switched on)."
    else:
        yield f"{options.image} has {what}, and bash."
    yield ""


def _notes(emission: Emission, options: PodOptions, files: JobFiles) -> Iterator[str]:
    """What the cluster must have beside the manifests."""
    yield from files.notes
    accelerator = emission.job.spec.execution.accelerator_type
    if accelerator is not None and not options.node_selector:
        yield f"execution.accelerator_type: {accelerator}: choose such nodes with --node-selector"
