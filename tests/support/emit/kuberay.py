"""What `ray.io/v1` takes, for checking manifests without the network: names and types of KubeRay 1.7's fields.

Written by hand from KubeRay's API reference (RayJob, RayCronJob, RayCluster); pod templates are left to the schemas of
Kubernetes. Where KubeRay's own CRDs were downloaded (`scripts/install_test_tools.sh --kuberay-crds`), `read_crds` turns
those into schemas that refuse unknown fields, as `kubeconform -strict` does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CRDS = Path(sys.prefix) / "share" / "kuberay-crds"

TEXT = {"type": "string"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
FLAG = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
POSITIVE = {**COUNT, "minimum": 1}
ANY = {"type": "object"}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


_HEAD = _object(
    ("template",),
    rayStartParams=TEXTS,
    template=ANY,
    serviceType=TEXT,
    enableIngress=FLAG,
    labels=TEXTS,
    resources=TEXTS,
)
_WORKERS = _object(
    ("groupName", "maxReplicas", "minReplicas", "template"),
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=POSITIVE,
    idleTimeoutSeconds=COUNT,
    numOfHosts=POSITIVE,
    rayStartParams=TEXTS,
    template=ANY,
    labels=TEXTS,
    resources=TEXTS,
    suspend=FLAG,
)
_CLUSTER = _object(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=_object(mode={"enum": ["disabled", "token"]}, secretName=TEXT, enableK8sTokenAuth=FLAG),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=_object(
        idleTimeoutSeconds=COUNT, upscalingMode=TEXT, version={"enum": ["v1", "v2"]}, securityContext=ANY
    ),
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
    headServiceAnnotations=TEXTS,
    suspend=FLAG,
)
_JOB = _object(
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]},
    backoffLimit=COUNT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    activeDeadlineSeconds=POSITIVE,
    preRunningDeadlineSeconds=POSITIVE,
    rayClusterSpec=_CLUSTER,
    runtimeEnvYAML=TEXT,
    submitterPodTemplate=ANY,
    metadata=TEXTS,
    suspend=FLAG,
)
_CRON_JOB = _object(
    ("jobTemplate", "schedule"), jobTemplate=_JOB, schedule=TEXT, timeZone={**TEXT, "minLength": 1}, suspend=FLAG
)
_METADATA = _object(("name",), name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)

SCHEMAS: dict[str, dict[str, Any]] = {
    kind: _object(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=_METADATA,
        spec=spec,
    )
    for kind, spec in {"RayJob": _JOB, "RayCronJob": _CRON_JOB}.items()
}


def pod_templates(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod template of a RayJob or RayCronJob."""
    if isinstance(value, dict):
        if "spec" in value and "containers" in value["spec"]:
            yield value
        for item in value.values():
            yield from pod_templates(item)
    elif isinstance(value, list):
        for item in value:
            yield from pod_templates(item)


def read_crds() -> dict[str, dict[str, Any]]:
    """Strict schemas of the CRDs that were downloaded, by kind."""
    found = {}
    for path in sorted(CRDS.glob("*.yaml")):
        crd = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        version = next(version for version in crd["spec"]["versions"] if version["name"] == "v1")
        schema = version["schema"]["openAPIV3Schema"]
        schema["properties"]["metadata"] = _METADATA
        found[crd["spec"]["names"]["kind"]] = _strict(schema)
    return found


def _strict(schema: Any) -> Any:
    """A structural schema of Kubernetes as a JSON schema that refuses what it does not name."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    strict = {
        key: {name: _strict(item) for name, item in value.items()} if key == "properties" else _strict(value)
        for key, value in schema.items()
    }
    if "properties" in strict and not strict.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict
