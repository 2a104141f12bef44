"""Pods of Kubernetes that run the job: the container, what it is given, and where it may be placed."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from abstractvision_batch.emit.emission import Emission, shell_words
from abstractvision_batch.emit.needs import JobFiles
from abstractvision_batch.emit.yaml_text import Note
from abstractvision_batch.errors import SpecError

#: Where the pods find the spec and what it names.
JOB_FOLDER = "/etc/avbatch/job"
#: The script beside them that runs the job: one word for whoever starts it, however it is quoted on the way.
RUN_SCRIPT = "/etc/avbatch/run.sh"
_MOUNT = "/etc/avbatch"
_SCRIPT_KEY = "run.sh"
#: The user of a pod may be one that the image does not know, without a home and a name, which libraries ask for.
_HOME = '[ -w "${HOME:-/}" ] || export HOME=/tmp\n'
_USER = {"name": "USER", "value": "avbatch"}
_SCRATCH = "scratch"
#: Bytes that a ConfigMap may have.
MAX_CONFIG_MAP_BYTES = 1 << 20
_GPU = "nvidia.com/gpu"
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")


@dataclass(frozen=True, slots=True)
class PodOptions:
    """What a cluster wants to know of the job's pods."""

    image: str
    namespace: str | None = None
    gpus: int | None = None
    """Of one pod; by default what one actor wants."""
    cpus: int | None = None
    """Of one pod; by default what its actors want."""
    memory: str | None = None
    """Of one pod; by default 16Gi with a GPU, 4Gi without."""
    secret_name: str | None = None
    """The Secret that holds the job's secrets; by default the job's name and `-secrets`."""
    service_account: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, str] = field(default_factory=dict)
    """Claims of volumes, and where they are mounted."""
    user_id: int = 1000
    """Whom the pods run as; 0 is root, for an image that works for no other user."""
    read_only_root: bool = False
    """Whether the image's own disk is read-only; `/tmp` is a volume then."""
    retries: int = 2
    """Starts of a run that failed, after the first; each resumes."""


def check_pod_options(options: PodOptions) -> None:
    """Refuse what Kubernetes would refuse.

    Raises:
        SpecError: an option's value is of no form that it takes.
    """
    checks = [
        ("--image", options.image, _IMAGE, "registry/name:tag"),
        ("--namespace", options.namespace, _OBJECT_NAME, "lower-case letters, digits and dashes"),
        ("--secret-name", options.secret_name, _OBJECT_NAME, "lower-case letters, digits, dots and dashes"),
        ("--service-account", options.service_account, _OBJECT_NAME, "lower-case letters, digits, dots and dashes"),
        ("--memory", options.memory, _QUANTITY, "a quantity, as 32Gi"),
        *(("--volume", claim, _OBJECT_NAME, "CLAIM:/path") for claim in options.volumes),
        *(("--node-selector", key, _LABEL_KEY, "KEY=VALUE of a label") for key in options.node_selector),
        *(("--node-selector", value, _LABEL_VALUE, "KEY=VALUE of a label") for value in options.node_selector.values()),
    ]
    for option, value, pattern, form in checks:
        if value is not None and not pattern.fullmatch(value):
            raise SpecError(f"{option}: {value[:80]!r} is nothing that Kubernetes takes ({form})")
    for path in options.volumes.values():
        if not path.startswith("/") or ":" in path:
            raise SpecError(f"--volume: {path!r} is no absolute path (CLAIM:/path)")


def config_map(name: str, namespace: str | None, files: JobFiles, command: list[str]) -> dict[str | Note, Any]:
    """The job's files as one object; text as it is, anything else in base64.

    Raises:
        SpecError: they are more than a ConfigMap takes.
    """
    script = f"#!/bin/bash\n{_HOME}exec {shell_words(command)}\n"
    contents = {_SCRIPT_KEY: script.encode(), **{key: files.files[path] for path, key in file_keys(files).items()}}
    size_bytes = sum(len(content) for content in contents.values())
    if size_bytes > MAX_CONFIG_MAP_BYTES:
        raise SpecError(
            f"the spec and the files that it names have {size_bytes:,} bytes, and a ConfigMap takes "
            f"{MAX_CONFIG_MAP_BYTES:,} (put prompts and input images on storage, and name them by URL)"
        )
    texts = {key: text for key, content in contents.items() if (text := _as_text(content)) is not None}
    binary = {key: content for key, content in contents.items() if key not in texts}
    data: dict[str | Note, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(name, namespace)}
    data["data"] = texts
    if binary:
        data["binaryData"] = {key: base64.b64encode(content).decode() for key, content in binary.items()}
    return data


def file_keys(files: JobFiles) -> dict[str, str]:
    """The key of each file in the ConfigMap, by its path in the job's folder: keys have no slashes."""
    keys: dict[str, str] = {}
    taken = {_SCRIPT_KEY}
    for path in files.files:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", path)[:200].strip(".") or "file"
        key = next(k for n in range(len(files.files) + 2) if (k := plain if n == 0 else f"{plain}-{n}") not in taken)
        taken.add(key)
        keys[path] = key
    return keys


def metadata(name: str, namespace: str | None) -> dict[str, Any]:
    """Name, namespace where one was given, and the labels by which a person finds the job's objects."""
    labels = {"app.kubernetes.io/name": "avbatch", "app.kubernetes.io/instance": name}
    return {"name": name, **({"namespace": namespace} if namespace is not None else {}), "labels": labels}


def secret_name(name: str, options: PodOptions) -> str:
    """The Secret of the job."""
    return options.secret_name or f"{name}-secrets"


def container(
    emission: Emission, options: PodOptions, name: str, *, own_name: str, resources: Mapping[str, Any]
) -> dict[str, Any]:
    """A container with the job's files, secrets and volumes."""
    secrets = [
        {"name": secret, "valueFrom": {"secretKeyRef": {"name": secret_name(name, options), "key": secret}}}
        for secret in emission.secrets
    ]
    mounts = [{"name": "job", "mountPath": _MOUNT, "readOnly": True}]
    mounts += [{"name": _volume_name(claim), "mountPath": path} for claim, path in options.volumes.items()]
    mounts += [{"name": _SCRATCH, "mountPath": "/tmp"}] if options.read_only_root else []
    return {
        "name": own_name,
        "image": options.image,
        "env": [_USER, *secrets],
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "volumeMounts": mounts,
        "securityContext": container_security(options),
    }


def container_security(options: PodOptions) -> dict[str, Any]:
    """What a container may not do, whoever runs in it."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        **({"readOnlyRootFilesystem": True} if options.read_only_root else {}),
    }


def pod_security(options: PodOptions) -> dict[str, Any]:
    """Whom a pod runs as, and what its volumes belong to."""
    who: dict[str, Any] = {"runAsUser": options.user_id}
    if options.user_id:
        who = {"runAsNonRoot": True, **who, "runAsGroup": options.user_id, "fsGroup": options.user_id}
        who["fsGroupChangePolicy"] = "OnRootMismatch"
    return {**who, "seccompProfile": {"type": "RuntimeDefault"}}


def pod_spec(
    emission: Emission,
    options: PodOptions,
    name: str,
    files: JobFiles,
    pod_container: dict[str, Any],
    *,
    gpus: int,
    selected: bool = True,
) -> dict[str | Note, Any]:
    """A pod around its container; one that is not `selected` may run on any node."""
    items = [{"key": _SCRIPT_KEY, "path": _SCRIPT_KEY}]
    items += [{"key": key, "path": f"job/{path}"} for path, key in file_keys(files).items()]
    volumes: list[dict[str, Any]] = [{"name": "job", "configMap": {"name": name, "items": items}}]
    volumes += [
        {"name": _volume_name(claim), "persistentVolumeClaim": {"claimName": claim}} for claim in options.volumes
    ]
    spec: dict[str | Note, Any] = {}
    if options.service_account is not None:
        spec["serviceAccountName"] = options.service_account
    spec[Note(f"Running shards have {emission.drain_s} s to finish after SIGTERM.")] = None
    spec["terminationGracePeriodSeconds"] = emission.grace_s
    if gpus:
        spec["tolerations"] = [{"key": _GPU, "operator": "Exists", "effect": "NoSchedule"}]
    if selected and options.node_selector:
        spec["nodeSelector"] = dict(options.node_selector)
    if options.read_only_root:
        volumes.append({"name": _SCRATCH, "emptyDir": {}})
    spec["securityContext"] = pod_security(options)
    spec["containers"] = [pod_container]
    spec["volumes"] = volumes
    return spec


def resources_of(cpus: int, memory: str, gpus: int) -> dict[str, Any]:
    """A container's resources; requests and limits are the same, so that what is promised is there."""
    return {"cpu": str(cpus), "memory": memory, **({_GPU: str(gpus)} if gpus else {})}


def _volume_name(claim: str) -> str:
    return f"volume-{claim.replace('.', '-')}"[:63].rstrip("-")


def _as_text(content: bytes) -> str | None:
    """The content as the text that YAML and JSON carry unchanged; None where they do not."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if all(c in "\t\n\r" or c.isprintable() or c == "\u3000" for c in text) else None
