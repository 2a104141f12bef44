"""What goes to a cluster with a spec: what is in the zip, what is said again, what is refused."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.plan.build import build_plan
from abstractvision_batch.prompts.images import PACKAGED
from abstractvision_batch.registry.cards import packaged_folder
from abstractvision_batch.submit.package import JobPackage, pack_job
from tests.support.jobs import MakeJob

LIMIT_BYTES = 1_000_000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder as people have them: specs here, data there."""
    (tmp_path / "specs").mkdir()
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/prompts.txt").write_text("a fox\na cat\n")
    (tmp_path / "data/edits.csv").write_text("prompt,image\na fox,images/red.png\na cat,images/blue.png\n")
    for colour in ("red", "blue", "green"):
        Image.new("RGB", (32, 24), colour).save(tmp_path / f"data/images/{colour}.png")
    return tmp_path


def _pack(home: Path, job: dict[str, Any], *, limit_bytes: int = LIMIT_BYTES, **given: Any) -> JobPackage:
    spec = home / "specs/job.yaml"
    spec.write_text(yaml.safe_dump(job))
    loaded = load_job(spec, overrides=given.get("overrides", ()), registry_paths=given.get("registry_paths", ()))
    return pack_job(loaded, home / "job.zip", limit_bytes=limit_bytes)


def _names(package: JobPackage) -> set[str]:
    return set(zipfile.ZipFile(package.path).namelist())


def test_files_keep_their_places_to_each_other(home: Path, make_job: MakeJob) -> None:
    (home / "specs/job.lock.json").write_text("{}")

    package = _pack(home, make_job(prompts={"source": "../data/*.txt"}))

    assert _names(package) == {"specs/job.yaml", "specs/job.lock.json", "data/prompts.txt"}
    assert package.spec == "specs/job.yaml"
    assert package.overrides == ()
    assert package.notes == ()


def test_the_files_that_a_spec_extends_go_along(home: Path, make_job: MakeJob) -> None:
    (home / "base.yaml").write_text(yaml.safe_dump(make_job(prompts={"source": "../data/prompts.txt"})))
    (home / "specs/middle.yaml").write_text("extends: ../base.yaml\n")

    package = _pack(home, {"extends": "middle.yaml", "samples_per_prompt": 2})

    assert _names(package) == {"specs/job.yaml", "specs/middle.yaml", "base.yaml", "data/prompts.txt"}
    assert package.files == {"spec": 3, "prompt file": 1}
    there = home / "there"
    zipfile.ZipFile(package.path).extractall(there)
    assert load_job(there / package.spec, overrides=package.overrides).spec.samples_per_prompt == 2


def test_a_base_with_a_signed_url_or_by_an_absolute_path_is_refused(home: Path, make_job: MakeJob) -> None:
    signed = "https://bucket.s3.amazonaws.com/a.txt?X-Amz-Signature=0123456789abcdef"
    (home / "base.yaml").write_text(yaml.safe_dump(make_job(prompts={"source": signed})))

    with pytest.raises(SpecError) as caught:
        _pack(home, {"extends": str(home / "base.yaml"), "prompts": {"source": ["a fox"]}})

    absolute, source = caught.value.problems
    assert "is an absolute path, which is not packaged" in absolute
    assert "base.yaml: prompts.source: the URL gives access" in source


def test_files_of_wildcards_go_along(home: Path, make_job: MakeJob) -> None:
    (home / "cards/warm").mkdir(parents=True)
    (home / "cards/warm/red.txt").write_text("red\n")
    prompts: dict[str, Any] = {"source": ["a __warm/red__ fox"], "grammar": {"wildcards": "../cards"}}

    package = _pack(home, make_job(prompts=prompts))
    absolute = _pack(home, make_job(prompts={**prompts, "grammar": {"wildcards": str(home / "cards")}}))

    assert _names(package) == _names(absolute) == {"specs/job.yaml", "cards/warm/red.txt"}
    assert (package.overrides, absolute.overrides) == ((), ('prompts.grammar.wildcards="../cards"',))


def test_input_images_that_rows_name_go_along_and_no_others(home: Path, make_job: MakeJob) -> None:
    package = _pack(home, make_job(task="image_to_image", prompts={"source": "../data/edits.csv"}))

    assert _names(package) == {"specs/job.yaml", "data/edits.csv", "data/images/red.png", "data/images/blue.png"}
    assert package.files == {"spec": 1, "prompt file": 1, "input image": 2}


def test_a_folder_of_pictures_goes_along_and_is_named_from_the_spec(home: Path, make_job: MakeJob) -> None:
    prompts = {"source": {"images": str(home / "data" / "images")}, "template": "a fox"}

    package = _pack(home, make_job(task="image_to_image", prompts=prompts))

    pictures = {f"data/images/{colour}.png" for colour in ("red", "blue", "green")}
    assert _names(package) == {"specs/job.yaml", *pictures}
    assert package.overrides == ('prompts.source.images="../data/images"',)


@pytest.mark.parametrize("source", [{"run": "runs/a"}, {"dataset": "sets/a"}])
def test_a_run_and_a_data_set_of_this_machine_are_named_by_url(
    home: Path, make_job: MakeJob, source: dict[str, str]
) -> None:
    (name,) = source

    with pytest.raises(SpecError, match=rf"prompts\.source\.{name}: \w+/a is on this machine, and is not packaged"):
        _pack(home, make_job(prompts={"source": source}))


def test_images_of_rows_that_are_left_out_stay_here(home: Path, make_job: MakeJob) -> None:
    prompts = {"source": "../data/edits.csv", "where": "prompt == 'a cat'"}

    package = _pack(home, make_job(task="image_to_image", prompts=prompts))

    assert "data/images/red.png" not in _names(package)


def test_an_absolute_path_of_prompts_is_said_again_as_a_relative_one(home: Path, make_job: MakeJob) -> None:
    package = _pack(home, make_job(prompts={"source": str(home / "data/prompts.txt")}))

    assert package.overrides == ('prompts.source="../data/prompts.txt"',)


def test_an_image_named_by_absolute_path_stays_and_is_named(home: Path, make_job: MakeJob) -> None:
    rows = [{"prompt": "a fox", "image": str(home / "data/images/red.png")}]

    package = _pack(home, make_job(task="image_to_image", prompts={"source": rows}))

    assert _names(package) == {"job.yaml"}
    assert "named by absolute path" in package.notes[0]


def test_variables_have_the_values_that_they_have_here(
    home: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUCKET", "of-${mine}")

    package = _pack(home, make_job(output={"path": "s3://${BUCKET}/run"}))

    assert package.overrides == ('output.path="s3://of-$${mine}/run"',)
    again = load_job(home / "specs/job.yaml", overrides=package.overrides)
    assert again.spec.output.path == "s3://of-${mine}/run"


def test_variables_of_variants_have_those_values_too(
    home: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGS", "/logs")
    journal = {"backend": {"journal_path": "${LOGS}/one"}}

    package = _pack(home, make_job(variants={"v1.5": journal, "other": {"params": {"steps": 3}}}))

    assert package.overrides == ('variants["v1.5"].backend.journal_path="/logs/one"',)
    again = load_job(home / "specs/job.yaml", overrides=package.overrides).variants
    journals = {variant.variant: variant.spec.backend.model_dump()["journal_path"] for variant in again}
    assert journals == {"v1.5": "/logs/one", "other": None}


def test_cards_of_the_spec_and_of_the_command_line_go_along(home: Path, make_job: MakeJob) -> None:
    card = (packaged_folder() / "avbatch.yaml").read_text()
    for folder in ("cards", "more"):
        (home / folder).mkdir()
        (home / folder / "own.yaml").write_text(card)
    job = make_job(registry={"paths": [str(home / "cards")]})

    package = _pack(home, job, registry_paths=[home / "more"])

    assert _names(package) == {"specs/job.yaml", "cards/own.yaml", "more/own.yaml"}
    assert package.overrides == ('registry.paths=["../cards"]',)
    assert package.registry == ("more",)


def test_urls_stay_and_are_not_asked_for(home: Path, make_job: MakeJob) -> None:
    prompts = {"source": "s3://nobody/prompts.csv", "storage_options": {"secret": {"env": "NOT_SET_HERE"}}}

    package = _pack(home, make_job(prompts=prompts))

    assert _names(package) == {"job.yaml"}


def test_images_on_storage_are_left_to_the_job(home: Path, make_job: MakeJob) -> None:
    rows = [{"prompt": "a fox", "image": "s3://nobody/red.png"}]
    prompts = {"source": rows, "storage_options": {"secret": {"env": "NOT_SET_HERE"}}}

    package = _pack(home, make_job(task="image_to_image", prompts=prompts))

    assert _names(package) == {"job.yaml"}


def test_prompts_are_checked_before_anything_is_packed(home: Path, make_job: MakeJob) -> None:
    (home / "data/edits.csv").write_text("prompt,image\na fox,images/missing.png\n,images/red.png\n")

    with pytest.raises(SpecError) as caught:
        _pack(home, make_job(task="image_to_image", prompts={"source": "../data/edits.csv"}))

    assert len(caught.value.problems) == 2


def test_a_model_that_is_here_alone_is_refused(home: Path, make_job: MakeJob, copied_model: Path) -> None:
    copied_model.rename(home / "specs/mine")
    job = make_job(model="avbatch/shapes64", params={"seed": 7}, backend={"kind": "diffusers", "model_path": "mine"})

    with pytest.raises(SpecError, match=r"job.yaml:\d+:\d+: backend.model_path: mine is on this machine"):
        _pack(home, job)

    job["backend"]["model_path"] = str(home / "specs/mine")
    assert "every node must have it there" in _pack(home, job).notes[0]


def test_what_is_too_large_says_what_takes_the_room(home: Path, make_job: MakeJob) -> None:
    for number in range(3):
        (home / f"data/images/{number}.png").write_bytes((home / "data/images/red.png").read_bytes())
        with (home / f"data/images/{number}.png").open("ab") as stream:
            stream.write(os.urandom(500_000))
    rows = "".join(f"a fox,images/{number}.png\n" for number in range(3))
    (home / "data/edits.csv").write_text("prompt,image\n" + rows)

    with pytest.raises(SpecError, match=r"3 input images of 2 MB.*on storage that every node reads"):
        _pack(home, make_job(task="image_to_image", prompts={"source": "../data/edits.csv"}))


def test_the_same_job_gives_the_same_bytes(home: Path, make_job: MakeJob) -> None:
    first = _pack(home, make_job(prompts={"source": "../data/prompts.txt"})).path.read_bytes()
    (home / "data/prompts.txt").touch()

    assert _pack(home, make_job(prompts={"source": "../data/prompts.txt"})).path.read_bytes() == first


def test_a_packaged_job_plans_its_images_by_their_place_in_the_package(
    home: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where a node unpacks it is no part of the plan: a run goes on in another cluster."""
    package = _pack(home, make_job(task="image_to_image", prompts={"source": "../data/edits.csv"}))
    plans = []
    for name in ("here", "there"):
        zipfile.ZipFile(package.path).extractall(tmp_path / name)
        (tmp_path / f"plan-{name}").mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv(PACKAGED, "1")
        build_plan(load_job(package.spec), tmp_path / f"plan-{name}")
        plans.append((tmp_path / f"plan-{name}/plan.parquet").read_bytes())

    assert plans[0] == plans[1]
    assert b"data/images/red.png" in plans[0]
    assert str(tmp_path).encode() not in plans[0]


def test_overrides_are_json_which_is_yaml(home: Path, make_job: MakeJob) -> None:
    (home / "data/ünï 'x'.txt").write_text("a fox\n")

    package = _pack(home, make_job(prompts={"source": str(home / "data/ünï 'x'.txt")}))

    key, _, value = package.overrides[0].partition("=")
    assert (key, json.loads(value)) == ("prompts.source", "../data/ünï 'x'.txt")
