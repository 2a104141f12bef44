"""A backend of another installed distribution works wherever one of ours does."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.outside_backend import PAGE, Installation, install, install_acme

SPEC = PAGE["job.yaml"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel") / "site"
    install_acme(target)
    return target


@pytest.fixture
def acme(site: Path, tmp_path: Path) -> Installation:
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards/plain.yaml").write_text(PAGE["cards/plain.yaml"])
    return Installation(tmp_path, (site,))


def read_rows(run: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(run / "manifest.parquet").to_pylist()
    return rows


def test_its_job_is_checked_run_retried_verified_and_rerun(acme: Installation) -> None:
    checked, ran, retried, verified, rerun = acme.avbatch(
        "validate spec.yaml",
        "run spec.yaml --set 'backend.refused=an owl'",
        "retry out --set backend.refused=nobody",
        "verify out --set backend.refused=nobody",
        "rerun out --output again --set backend.refused=nobody",
    )

    ends = (checked, ran, retried, verified, rerun)
    assert [end.code for end in ends] == [0, 1, 0, 0, 0], ends
    for run in ("out", "again"):
        rows = read_rows(acme.folder / run)
        assert [(row["backend"], row["status"]) for row in rows] == [("acme", "ok")] * 2
        assert Image.open(acme.folder / run / str(rows[0]["file_name"])).getpixel((0, 0)) == (0, 255, 0)
    record = json.loads((acme.folder / "out/run.json").read_text())
    assert record["environment"]["backend_packages"] == {"acme": "acme-vision 1.0"}


@pytest.mark.slow
@pytest.mark.ray
def test_its_job_runs_on_ray(acme: Installation) -> None:
    (ran,) = acme.avbatch("run spec.yaml --set execution.executor=ray --set execution.address=local")

    assert ran.code == 0, ran
    assert [(row["backend"], row["status"]) for row in read_rows(acme.folder / "out")] == [("acme", "ok")] * 2


def test_a_wrong_value_of_its_own_field_is_a_line_with_its_place(acme: Installation) -> None:
    (acme.folder / "spec.yaml").write_text(SPEC.replace("hue: 120", "hue: 400, huge: 1"))

    (refused,) = acme.avbatch("validate spec.yaml")

    assert refused.code == 2
    assert "spec.yaml:5:23: backend.hue: 400 is not an integer from 0 to 359\n" in refused.err
    assert "spec.yaml:5:33: backend.huge: unknown field (did you mean hue?)\n" in refused.err


def test_another_hue_is_another_run(acme: Installation) -> None:
    ran, refused = acme.avbatch("run spec.yaml", "run spec.yaml --set backend.hue=240")

    assert (ran.code, refused.code) == (0, 2)
    assert "backend.acme.hue" in refused.err


def test_one_picture_is_generated_by_it_and_the_doctor_and_the_schema_know_it(acme: Installation) -> None:
    made, doctor, schema = acme.avbatch(
        "generate 'a fox' --backend acme --model acme/plain --registry cards/plain.yaml --width 16 -o fox.png",
        "doctor --json",
        "schema",
    )

    assert made.code == 0, made
    assert Image.open(acme.folder / "fox.png").getpixel((0, 0)) == (255, 0, 0)
    check = next(check for check in json.loads(doctor.out)["checks"] if check["name"] == "backend acme")
    assert check["ok"]
    assert check["found"].startswith("acme-vision 1.0")
    assert json.loads(schema.out)["$defs"]["AcmeSection"]["properties"]["hue"]["maximum"] == 359


def test_a_manager_generates_with_it(acme: Installation) -> None:
    printed = acme.python("""
        import io
        from PIL import Image
        from abstractvision_batch.backends.table import create_backend, load_section_class
        from abstractvision_batch.vision_manager import VisionManager
        backend = create_backend(load_section_class("acme")(hue=240), card=None, model="none")
        made = VisionManager(backend).generate_image("a fox", width=8, height=8)
        print(Image.open(io.BytesIO(made.data)).getpixel((0, 0)))
    """)

    assert printed == "(0, 0, 255)\n"


def test_a_package_for_a_cluster_refuses_local_files_and_names_the_distribution_that_the_cluster_needs(
    acme: Installation,
) -> None:
    (acme.folder / "colours.txt").write_text("red")
    (acme.folder / "local.yaml").write_text(SPEC.replace("hue: 120", "palette: colours.txt"))

    printed = acme.python("""
        from pathlib import Path
        from abstractvision_batch.errors import SpecError
        from abstractvision_batch.job.load import load_job
        from abstractvision_batch.submit.package import pack_job
        print(*pack_job(load_job("spec.yaml"), Path("job.zip"), limit_bytes=1_000_000).notes)
        try:
            pack_job(load_job("local.yaml"), Path("job.zip"), limit_bytes=1_000_000)
        except SpecError as error:
            print(error)
    """)

    assert printed.splitlines() == [
        "acme-vision 1.0: brings backend acme, and is not packaged: the cluster must have it installed",
        "local.yaml:5:23: backend.palette: colours.txt is on this machine, and models are not packaged "
        "(write an absolute path that every node has)",
    ]


def test_a_run_whose_backend_was_uninstalled_is_read_and_what_generates_says_in_a_line_what_to_install(
    acme: Installation,
) -> None:
    ran = acme.avbatch(
        "run spec.yaml --set 'backend.refused=an owl'", "run spec.yaml --set backend.hue=3 --set output.path=other"
    )
    assert [end.code for end in ran] == [1, 0]

    *read, compared = Installation(acme.folder, ()).avbatch(
        "status out", "audit out", "record out", "runs .", "diff out other"
    )
    *generating, started = Installation(acme.folder, ()).avbatch(
        "verify out", "rerun out --output again --set backend.refused=nobody", "retry out", "run spec.yaml"
    )

    assert [end.code for end in read] == [0] * 4, read
    assert "backend.acme.hue" in compared.out, compared
    for refused in generating:
        assert (refused.code, refused.err) == (
            3,
            f"{acme.folder}/out/run.json: backend acme: no installed package brings it "
            "(install acme-vision 1.0, which the run had it from)\n",
        )
    assert started.code == 2
    assert 'backend.kind: "acme" is not one of diffusers, openai, procedural, sdcpp' in started.err


def test_a_run_is_read_where_another_version_of_its_backend_has_other_fields(
    acme: Installation, tmp_path: Path
) -> None:
    assert acme.avbatch("run spec.yaml")[0].code == 0
    install_acme(tmp_path / "later", replaced=("hue:", "tone:"))

    status, verify = Installation(acme.folder, (tmp_path / "later",)).avbatch("status out", "verify out")

    assert status.code == 0, status
    assert verify.code == 2
    assert "backend.hue: unknown field" in verify.err


BROKEN = {
    "falls": ("raise RuntimeError('no driver')", "cannot be imported (RuntimeError: no driver)"),
    "ends": ("raise SystemExit(7)", "cannot be imported (SystemExit: 7)"),
    "other": ("Backend = dict", "is not a VisionBackend"),
}


def test_a_broken_backend_is_one_line_that_names_its_distribution_and_harms_no_other(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for kind, (code, _) in BROKEN.items():
        points = f"[abstractvision_batch.backends]\n{kind} = {kind}_module:Backend\n"
        install(site, f"{kind}-vision", {f"{kind}_module": code}, points)
    section = dedent("""
        from typing import Literal
        from abstractvision_batch.job.backend_section import BackendSection
        class Section(BackendSection):
            kind: Literal["diffusers"] = "diffusers"
    """)
    points = (
        "[abstractvision_batch.backends]\nclash = clash_module:Backend\ndiffusers = clash_module:Backend\n"
        "[abstractvision_batch.sections]\nclash = clash_module:Section\n"
    )
    install(site, "clash-vision", {"clash_module": section}, points)
    said = {kind: f"{kind} of {kind}-vision 1.0: {kind}_module:Backend {line}" for kind, (_, line) in BROKEN.items()}
    said["clash"] = "clash of clash-vision 1.0: clash_module:Section is the section of another kind"
    spec = SPEC.replace("acme/plain", "avbatch/procedural").replace("registry: {paths: [cards/plain.yaml]}\n", "")
    for kind in (*said, "procedural"):
        (tmp_path / f"{kind}.yaml").write_text(spec.replace("acme, hue: 120", kind))

    *ends, ran, doctor, schema = Installation(tmp_path, (site,)).avbatch(
        *(f"run {kind}.yaml" for kind in said), "run procedural.yaml", "doctor --json", "schema"
    )

    for line, ended in zip(said.values(), ends, strict=True):
        assert ended.code == 3, ended
        assert ended.err.strip().endswith(f"backend {line}"), ended
        assert len(ended.err.strip().splitlines()) == 1
    assert ran.code == 0
    checks = {check["name"]: check for check in json.loads(doctor.out)["checks"]}
    assert {kind for kind in (*said, "diffusers") if not checks[f"backend {kind}"]["ok"]} == {*said, "diffusers"}
    assert json.loads(schema.out)["title"] == "avbatch job spec"
