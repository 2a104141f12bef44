"""Manifests for Kubernetes pass the schemas of what they are, and say what the spec says."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from tests.emit.conftest import DAILY, Emit, Refuse
from tests.support.emit.kuberay import SCHEMAS, pod_templates, read_crds
from tests.support.jobs import MakeJob

IMAGE = ("--image", "registry.example:5000/me/avbatch:1.2@sha256:0f")
RAY = ("--set", "execution.executor=ray")
GPU = ("--set", "execution.gpus_per_actor=0.5", "--gpus", "2")
SHAPES = ("--set", "model=avbatch/shapes64", "--set", "params={}")
#: Options that between them make every kind of object with every kind of field.
VARIANTS: dict[str, tuple[str, ...]] = {
    "job": (),
    "job on a GPU": (*GPU, "--node-selector", "nvidia.com/gpu.product=NVIDIA-H100", "--namespace", "vision"),
    "job with secrets": ("--secret", "AWS_SECRET_ACCESS_KEY", "--service-account", "storage"),
    "job with volumes": ("--volume", "models:/models", "--volume", "runs:/runs", "--set", "output.path=/runs/one"),
    "cron job": DAILY,
    "ray job": RAY,
    "ray job on GPUs": (*RAY, *GPU, "--set", "execution.actors=6", "--secret", "HF_TOKEN", "--name", "mine"),
    "ray job that grows": (*RAY, *GPU, "--workers", "0-8", "--node-selector", "pool=gpu", "--volume", "models:/models"),
    "ray cron job": (*RAY, *DAILY),
    "job of root": ("--user-id", "0"),
    "job on a read-only disk": ("--read-only-root", "--user-id", "1234"),
    "ray job on a read-only disk": (*RAY, "--read-only-root", "--workers", "0-2", "--service-account", "storage"),
}


def _documents(emitted: dict[str, str]) -> dict[str, dict[str, Any]]:
    (text,) = emitted.values()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.fixture(scope="module")
def crds() -> dict[str, dict[str, Any]]:
    return read_crds()


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_manifest_passes_its_schema_strictly(
    options: tuple[str, ...], emit: Emit, crds: dict[str, dict[str, Any]]
) -> None:
    for kind, document in _documents(emit("kubernetes", *IMAGE, *options)).items():
        if kind in SCHEMAS:
            Draft202012Validator(SCHEMAS[kind]).validate(document)
            for template in pod_templates(document):
                pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
                kubernetes_validate.validate(pod, "1.33", strict=True)
            if crds:
                Draft202012Validator(crds[kind]).validate(document)
        else:
            kubernetes_validate.validate(document, "1.33", strict=True)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_pod_runs_without_rights_that_it_does_not_need(options: tuple[str, ...], emit: Emit) -> None:
    templates = [
        template
        for document in _documents(emit("kubernetes", *IMAGE, *options)).values()
        for template in pod_templates(document)
    ]

    assert len(templates) == (3 if "execution.executor=ray" in options else 1)
    for template in templates:
        pod = template["spec"]
        user = 0 if options[-1:] == ("0",) else 1234 if "1234" in options else 1000
        assert pod["securityContext"]["runAsUser"] == user
        assert pod["securityContext"].get("runAsNonRoot", False) is (user != 0)
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        read_only = "--read-only-root" in options
        assert container["securityContext"].get("readOnlyRootFilesystem", False) is read_only
        mounted = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", ())}
        assert ("/tmp" in mounted) is read_only
        assert set(mounted.values()) <= {volume["name"] for volume in pod.get("volumes", ())}


def test_the_script_gives_a_user_without_a_home_one(emit: Emit, tmp_path: Path) -> None:
    script = _documents(emit("kubernetes", *IMAGE))["ConfigMap"]["data"]["run.sh"]
    (tmp_path / "avbatch").write_text('#!/bin/bash\necho "$HOME"\n')
    (tmp_path / "avbatch").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"

    for environ, said in (
        ({"PATH": path, "HOME": "/nowhere"}, "/tmp"),
        ({"PATH": path, "HOME": str(tmp_path)}, str(tmp_path)),
    ):
        done = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == said


def test_kuberays_own_schema_refuses_what_it_does_not_know(emit: Emit, crds: dict[str, dict[str, Any]]) -> None:
    if not crds:
        pytest.skip("KubeRay's CRDs were not downloaded (scripts/install_test_tools.sh --kuberay-crds)")
    job = _documents(emit("kubernetes", *IMAGE, *RAY))["RayJob"]
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containerz"] = []

    with pytest.raises(ValidationError, match="containerz"):
        Draft202012Validator(crds["RayJob"]).validate(job)


@pytest.mark.parametrize(
    ("options", "workers"),
    [
        (("--set", "execution.actors=6"), (3, 3, 2)),  # four actors of half a GPU on a pod of two
        (("--set", "execution.actors=9", "--gpus", "1"), (5, 5, 1)),
        (("--workers", "2-7"), (2, 7, 2)),
        ((), (1, 1, 2)),
    ],
)
def test_workers_hold_the_actors_of_the_spec(
    options: tuple[str, ...], workers: tuple[int, int, int], emit: Emit
) -> None:
    share = ("--set", "execution.gpus_per_actor=1") if "--gpus" not in options else ()
    given = ("--gpus", "2", *share) if "--gpus" not in options else ("--set", "execution.gpus_per_actor=0.5")
    cluster = _documents(emit("kubernetes", *IMAGE, *RAY, *given, *options))["RayJob"]["spec"]["rayClusterSpec"]

    (group,) = cluster["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert (group["minReplicas"], group["maxReplicas"], int(limits["nvidia.com/gpu"])) == workers
    assert cluster.get("enableInTreeAutoscaling", False) is (workers[0] < workers[1])
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_workers_are_known_to_have_what_actors_ask_for_before_there_is_one(emit: Emit) -> None:
    asked = ("--set", "execution.accelerator_type=H100", "--set", "execution.resources={licence: 0.5}")
    documents = _documents(emit("kubernetes", *IMAGE, *RAY, *GPU, *asked, "--workers", "0-3"))

    (group,) = documents["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    counted = group["rayStartParams"]["resources"]
    assert counted[0] == counted[-1] == "'"  # for the shell that KubeRay starts Ray with
    assert json.loads(counted[1:-1]) == {"licence": 2.0, "accelerator_type:H100": 1.0}
    assert "execution.actors={min: 1, max: 12}" in documents["ConfigMap"]["data"]["run.sh"]


def test_a_range_of_actors_makes_a_range_of_workers(emit: Emit) -> None:
    options = (*RAY, *GPU, "--set", "execution.actors={min: 2, max: 9}", "--set", "execution.address=head:6379")
    documents = _documents(emit("kubernetes", *IMAGE, *options))

    (group,) = documents["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (1, 3)
    assert "--set execution.address=null" in documents["ConfigMap"]["data"]["run.sh"]


def test_pods_have_longer_to_end_than_the_run_has_to_drain(emit: Emit) -> None:
    job = _documents(emit("kubernetes", *IMAGE, "--set", "execution.drain_timeout_s=200.5"))["Job"]["spec"]

    assert job["template"]["spec"]["terminationGracePeriodSeconds"] == 231
    assert job["backoffLimit"] > 0
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [1, 2, 3]


def test_a_schedule_names_its_time_zone_and_runs_never_overlap(emit: Emit) -> None:
    spec = _documents(emit("kubernetes", *IMAGE, *DAILY))["CronJob"]["spec"]

    assert (spec["schedule"], spec["timeZone"], spec["concurrencyPolicy"]) == ("0 3 * * *", "Europe/Berlin", "Forbid")


def test_secrets_are_named_and_never_written(
    make_job: MakeJob, emit: Emit, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_SECRET", "hunter2")
    options = {"key": {"env": "STORE_KEY"}, "client_kwargs": "x", "secret": {"env": "STORE_SECRET"}}
    data = make_job(prompts={"source": ["a"]}, output={"path": "s3://bucket/run", "storage_options": options})
    job.write_text(yaml.safe_dump(data), encoding="utf-8")

    emitted = emit("kubernetes", *IMAGE, "--secret", "HF_TOKEN", "--secret-name", "mine")

    (text,) = emitted.values()
    assert "hunter2" not in text
    (container,) = _documents(emitted)["Job"]["spec"]["template"]["spec"]["containers"]
    wanted = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in container["env"] if "valueFrom" in entry}
    names = ("HF_TOKEN", "STORE_KEY", "STORE_SECRET")
    assert wanted == {name: {"name": "mine", "key": name} for name in names}
    assert "kubectl create secret generic mine --from-literal=HF_TOKEN" in text


def test_the_config_map_has_all_that_the_job_reads_and_its_script_runs_it(
    make_job: MakeJob, emit: Emit, tmp_path: Path
) -> None:
    """The volume is laid out as Kubernetes would, at another place, and the container's command is run there."""
    specs, prompts, cards = (tmp_path / name for name in ("specs dir", "my prompts", "cards"))
    for folder in (specs, prompts, cards):
        folder.mkdir()
    (prompts / "a b.tsv").write_text("prompt\tcolour\na fox\tréd\n", encoding="utf-8")
    size = {"width": {"default": 32}, "height": {"default": 24}}
    card = {"id": "me/mine", "provider": "me", "license": "mit", "tasks": {"text_to_image": {"params": size}}}
    (cards / "mine.yaml").write_text(yaml.safe_dump({**card, "backends": {"procedural": {}}}), encoding="utf-8")
    data = make_job(
        model="me/mine",
        prompts={"source": "../my prompts/*.tsv"},
        registry={"paths": ["../cards"]},
        output={"path": f"{tmp_path}/out"},
    )
    spec = specs / "it's a $job.yaml"
    spec.write_text(yaml.safe_dump(data), encoding="utf-8")

    documents = _documents(emit("kubernetes", *IMAGE, "--volume", f"runs:{tmp_path}", spec=spec))

    mounted = tmp_path / "mounted"
    files, pod = documents["ConfigMap"], documents["Job"]["spec"]["template"]["spec"]
    for item in pod["volumes"][0]["configMap"]["items"]:
        path = mounted / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        text = files["data"].get(item["key"])
        path.write_bytes(base64.b64decode(files["binaryData"][item["key"]]) if text is None else text.encode())
    script = mounted / "run.sh"
    script.write_text(script.read_text(encoding="utf-8").replace("/etc/avbatch/", f"{mounted}/"), encoding="utf-8")
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(["bash", script], capture_output=True, text=True, cwd="/", env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "manifest.parquet").is_file()


def test_files_beyond_a_mebibyte_belong_on_storage(job: Path, refuse: Refuse) -> None:
    (job.parent / "prompts" / "animals.txt").write_text("a fox\n" * 200_000, encoding="utf-8")

    assert "a ConfigMap takes 1,048,576 (put prompts and input images on storage" in refuse("kubernetes", *IMAGE)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "output.path=runs/one"), "output.path: runs/one would be lost: a pod's disk goes with it"),
        (("--set", "output.path=/runs/one", "--volume", "runs:/run"), "would be lost"),
        (("--set", "output.path=file:///runs/one"), "would be lost"),
        (("--set", "prompts.source=file:///etc/hostname"), "is on this machine alone"),
        (("--set", "prompts.source=p/{{ date }}.txt", *DAILY), "another file of this machine at every time"),
        ((*SHAPES, "--set", "backend={kind: diffusers, model_path: prompts}"), "models are not packaged"),
        ((*RAY, "--set", "execution.runtime_env={py_modules: [s3://b/a.zip, src]}"), "src is on this machine alone"),
        ((*RAY, "--set", "execution.runtime_env={pip: requirements.txt}"), "requirements.txt is on this machine alone"),
        (("--image", "a b"), "--image: 'a b' is nothing that Kubernetes takes"),
        (("--memory", "lots"), "--memory: 'lots'"),
        (("--namespace", "Mine"), "--namespace: 'Mine'"),
        (("--node-selector", "a=b c"), "--node-selector: 'b c'"),
        (("--volume", "runs:here"), "--volume: 'here' is no absolute path"),
        (("--secret", "A-B"), "--secret: 'A-B' is no variable's name"),
        (("--name", "My_Job"), "--name: 'My_Job' is no name here"),
        (("--cron", "61 * * * *"), '--cron "61 * * * *": bad minute'),
        (("--cron", "0 3 * * *"), "output.path: 2"),
        (("--timezone", "Europe/Berlin"), "--timezone"),
        ((*RAY, "--ray-version", "2.40.0"), "--ray-version: '2.40.0' is no version from 2.52.0 on"),
        ((*RAY, "--workers", "8-2"), "'8-2' is no number of workers"),
        ((*RAY, "--set", "execution.gpus_per_actor=2", "--gpus", "1"), "--gpus: 1 of a pod are fewer than the 2"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(options: tuple[str, ...], said: str, refuse: Refuse) -> None:
    assert said in refuse("kubernetes", *(() if "--image" in options else IMAGE), *options)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("options", [(), RAY, DAILY, (*RAY, *DAILY)], ids=["Job", "RayJob", "CronJob", "RayCronJob"])
@pytest.mark.parametrize("name", ["A.b_C", "9-lives", "x" * 100, "--Odd--"[2:], "1" * 100])
def test_names_are_such_as_kubernetes_takes(name: str, options: tuple[str, ...], emit: Emit) -> None:
    documents = _documents(emit("kubernetes", *IMAGE, "--set", f"name='{name}'", *options))

    for kind, document in documents.items():
        made = document["metadata"]["name"]
        assert made.startswith("avbatch-")
        assert all(character.isascii() and (character.isalnum() or character == "-") for character in made)
        assert made == made.lower() and not made.endswith("-")
        assert len(made) <= {"RayJob": 47, "RayCronJob": 36, "CronJob": 52}.get(kind, 63)


def test_two_long_names_stay_two(emit: Emit) -> None:
    made = {name for end in "ab" for name in emit("kubernetes", *IMAGE, "--set", f"name={'x' * 90}{end}")}

    assert len(made) == 2
