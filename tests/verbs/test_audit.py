"""What an audit finds, by damaging finished runs, and what its repair mends."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import SpecError
from abstractvision_batch.storage.store import open_store
from abstractvision_batch.verbs.audit import AuditReport, audit
from abstractvision_batch.verbs.run import run
from tests.support.emulators import StoreServer
from tests.support.jobs import MakeJob


@pytest.fixture
def job(make_job: MakeJob) -> dict[str, Any]:
    """A finished run of 6 requests in 3 shards."""
    small = make_job(
        prompts={"source": ["a fox", "a cat", "a dog"]},
        samples_per_prompt=2,
        params={"width": 16, "height": 16, "seed": 7},
        execution={"batch_size": 2, "shard_size": 2},
    )
    run(small)
    return small


def _kinds(report: AuditReport) -> list[str]:
    return [finding.kind for finding in report.findings]


def _pictures(folder: Path, shard: int) -> list[Path]:
    return sorted((folder / f"artifacts/{shard:05d}").iterdir())


def _rewrite(part: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(part)), part)


def test_a_finished_run_is_whole(job: dict[str, Any], tmp_path: Path) -> None:
    report = audit(tmp_path / "run")

    assert (report.findings, report.exit_code) == ((), 0)
    assert (report.requests, report.shards_done, report.succeeded, report.failed, report.files) == (6, 3, 6, 0, 6)
    assert report.size_bytes == sum(path.stat().st_size for path in (tmp_path / "run/artifacts").rglob("*.png"))


def test_failed_rows_are_no_findings(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(backend={"kind": "procedural", "fail_when": "dog"}))

    report = audit(tmp_path / "run")

    assert (report.findings, report.succeeded, report.failed, report.files) == ((), 16, 4, 16)


def test_an_environment_that_rows_name_and_that_is_lost_is_a_finding(job: dict[str, Any], tmp_path: Path) -> None:
    (environment,) = (tmp_path / "run/environments").iterdir()
    environment.unlink()

    report = audit(tmp_path / "run", fast=True)

    assert [(finding.kind, finding.name) for finding in report.findings] == [
        ("missing_environment", f"environments/{environment.name}")
    ]


def test_two_runs_of_the_same_files_have_one_root_and_other_files_another(job: dict[str, Any], tmp_path: Path) -> None:
    other_place = {**job, "output": {"path": f"memory://{uuid.uuid4().hex}/run"}}
    run(other_place)
    run({**job, "output": {"path": str(tmp_path / "other")}, "params": {**job["params"], "seed": 8}})

    root = audit(tmp_path / "run").root

    assert root == audit(other_place["output"]["path"]).root
    assert root != audit(tmp_path / "other").root


def test_the_root_is_the_sha256_of_a_line_per_request(job: dict[str, Any], tmp_path: Path) -> None:
    rows = pq.read_table(tmp_path / "run" / "manifest.parquet").sort_by("index").to_pylist()
    lines = "".join(f"{row['request_id']} {row['sha256']}\n" for row in rows)

    assert audit(tmp_path / "run").root == hashlib.sha256(lines.encode()).hexdigest()


def test_a_lost_file_is_found_and_repaired_by_redoing_its_shard_alone(job: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    whole = audit(folder)
    lost = _pictures(folder, 1)[0]
    lost.unlink()

    found = audit(folder)
    repaired = audit(folder, repair=True)
    again = run(job)

    assert _kinds(found) == ["missing_file"]
    assert lost.name in str(found.findings[0])
    assert (repaired.forgotten, repaired.exit_code) == ((1,), 1)
    assert again.generated == 2
    assert audit(folder) == whole


@pytest.mark.parametrize(("size", "kind"), [("same", "wrong_hash"), ("other", "wrong_size")])
def test_a_damaged_file_is_found_and_written_again(job: dict[str, Any], tmp_path: Path, size: str, kind: str) -> None:
    folder = tmp_path / "run"
    whole = audit(folder)
    picture = _pictures(folder, 2)[1]
    good = picture.read_bytes()
    picture.write_bytes(good[:-1] + bytes([good[-1] ^ 1]) if size == "same" else good[:-1])

    assert _kinds(audit(folder)) == [kind]
    assert _kinds(audit(folder, fast=True)) == ([] if size == "same" else [kind])
    assert audit(folder, repair=True).forgotten == (2,)
    run(job)

    assert picture.read_bytes() == good
    assert audit(folder) == whole


def test_what_belongs_to_nothing_is_found_and_removed_once_it_is_old_enough(
    job: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    whole = audit(folder)
    names = (
        ".tmp-1",
        ".probe-1",
        "artifacts/00001/.tmp-2",
        f"artifacts/00001/{'c' * 26}-{'d' * 12}.png",
        f"artifacts/00009/{'c' * 26}-v2-{'d' * 12}.webp",
        f"artifacts/00009-{'d' * 12}.tar",
        "manifest/.tmp-3",
        "manifest/00009-a0.parquet",
    )
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"left over")

    too_young = audit(folder, repair=True)
    removed = audit(folder, repair=True, grace_s=0)

    assert sorted(finding.name for finding in too_young.findings) == sorted(names)
    assert (too_young.removed, too_young.exit_code) == ((), 1)
    assert (sorted(removed.removed), removed.exit_code) == (sorted(names), 0)
    assert audit(folder) == whole


def test_files_of_others_are_left_alone_and_do_not_make_a_run_less_than_whole(
    job: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    names = (
        ".gitattributes",
        ".DS_Store",
        ".cache/huggingface/download/x.metadata",
        "notes.md",
        "manifest/.DS_Store",
        "manifest/index.parquet",
        "extensions/notes.json",
        "artifacts/.DS_Store",
        "artifacts/loose.png",
        "artifacts/README.md",
        "artifacts/mine/a.png",
        "artifacts/00001/.DS_Store",
        "artifacts/00001/favourite.png",
        "artifacts/00009/Thumbs.db",
        "environments/.gitkeep",
        "report/.DS_Store",
    )
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(b"mine")

    report = audit(folder, repair=True, grace_s=-1)

    assert (report.findings, report.removed, report.exit_code) == ((), (), 0)
    assert all((folder / name).read_bytes() == b"mine" for name in names)


def test_files_of_a_shard_that_is_not_done_are_left_alone(job: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run/manifest/00000-a0.parquet").unlink()

    report = audit(tmp_path / "run", repair=True, grace_s=0)

    assert (_kinds(report), report.removed, report.shards_done) == (["missing_shard"], (), 2)
    assert [(one.name, one.message) for one in report.findings] == [
        ("manifest/00000-a0.parquet", "shard 0 is not done")
    ]
    assert len(_pictures(tmp_path / "run", 0)) == 2


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda table: table.slice(1), ["missing_row", "orphan"]),
        (lambda table: pa.concat_tables([table, table.slice(0, 1)]), ["duplicate_row"]),
        (
            lambda table: table.set_column(1, "request_id", pa.array(["0" * 16, table["request_id"][1].as_py()])),
            ["missing_row", "foreign_row"],
        ),
        (
            lambda table: table.set_column(
                table.schema.get_field_index("file_name"), "file_name", pa.array([None, "x.png"])
            ),
            ["damaged_row", "missing_file", "orphan", "orphan"],
        ),
    ],
    ids=["a row less", "a row twice", "a foreign row", "no file named"],
)
def test_rows_that_are_not_the_plan_are_found_and_their_shard_is_redone(
    job: dict[str, Any], tmp_path: Path, change: Callable[[pa.Table], pa.Table], kinds: list[str]
) -> None:
    folder = tmp_path / "run"
    whole = audit(folder)
    _rewrite(folder / "manifest/00001-a0.parquet", change)

    assert _kinds(audit(folder)) == kinds
    assert audit(folder, repair=True).forgotten == (1,)
    run(job)

    assert audit(folder) == whole


def test_a_part_that_cannot_be_read_is_found_and_redone(job: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "manifest/00001-a0.parquet").write_bytes(b"PAR1 cut off")

    report = audit(folder, repair=True)
    run(job)

    assert (_kinds(report), report.forgotten) == (["damaged_part"], (1,))
    assert audit(folder).exit_code == 0


@pytest.mark.parametrize("damage", ["gone", "cut", "other rows"])
def test_a_merged_manifest_that_is_not_its_parts_is_merged_anew(
    job: dict[str, Any], tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "run/manifest.parquet"
    rows = pq.read_table(path)
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        pq.write_table(pa.concat_tables([rows.slice(1), rows.slice(0, 1)]), path)

    assert _kinds(audit(path.parent)) == ["manifest"]
    report = audit(path.parent, repair=True)

    assert (report.merged, report.exit_code) == (True, 0)
    assert pq.read_table(path) == rows
    assert audit(path.parent).findings == ()


def test_a_plan_that_is_not_the_one_that_was_recorded_is_found(job: dict[str, Any], tmp_path: Path) -> None:
    _rewrite(tmp_path / "run/plan.parquet", lambda table: table.slice(1))

    report = audit(tmp_path / "run", repair=True)

    assert (_kinds(report), report.root, report.exit_code) == (["plan_file"], None, 1)


def test_files_of_further_views_are_checked_too(make_job: MakeJob, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (9, 99, 199)).save(tmp_path / "in.png")
    job = make_job(
        task="multi_view_image",
        prompts={"source": [{"prompt": "a fox", "image": str(tmp_path / "in.png")}]},
        samples_per_prompt=1,
        params={"width": 16, "height": 16},
    )
    run(job)
    folder = tmp_path / "run"
    whole = audit(folder)
    assert whole.findings == ()
    assert whole.files > whole.requests == 1
    second = next(path for path in _pictures(folder, 0) if "-v1-" in path.name)
    second.unlink()

    report = audit(folder, repair=True)
    run(job)

    assert _kinds(report) == ["missing_file"]
    assert audit(folder) == whole


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", ["memory", "s3", "gs", "abfs"])
def test_a_run_in_any_store_is_audited_and_repaired_the_same(
    job: dict[str, Any], request: pytest.FixtureRequest, kind: str
) -> None:
    server = StoreServer("memory") if kind == "memory" else request.getfixturevalue(f"{kind}_server")
    url, options = server.new_url(), server.options
    job = {**job, "output": {"path": url, "storage_options": options}}
    run(job)
    whole = audit(url, options)
    assert (whole.findings, whole.files) == ((), 6)
    store = open_store(url, options)
    store.delete(f"artifacts/00001/{store.list('artifacts/00001')[0]}")
    far = f"artifacts/00002/{'c' * 26}-{'d' * 12}.png"
    for name in (".probe-left", far):
        store.put(name, b"left over")

    too_young = audit(url, options, repair=True, fast=True)
    report = audit(url, options, repair=True, grace_s=-60)  # clocks may differ by a second
    run(job)

    assert sorted(_kinds(too_young)) == ["missing_file", "orphan", "orphan"]
    assert (too_young.removed, too_young.forgotten) == ((), (1,))
    assert sorted(report.removed) == [".probe-left", far]
    assert audit(url, options) == whole


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no run here"):
        audit(tmp_path)


def test_the_command_prints_findings_and_the_root_and_exits_with_1(job: dict[str, Any], tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    whole = CliRunner().invoke(app, ["audit", folder])
    root = audit(folder).root
    for number in range(25):
        (tmp_path / f"run/artifacts/00001/{number:026x}-{'d' * 12}.png").write_bytes(b"")

    found = CliRunner().invoke(app, ["audit", folder])
    as_json = CliRunner().invoke(app, ["audit", folder, "--fast", "--json"])
    repaired = CliRunner().invoke(app, ["audit", folder, "--repair", "--grace-s", "0"])

    assert whole.exit_code == 0
    assert f"root       {root}" in whole.stdout
    assert found.exit_code == 1
    assert found.stdout.count("no row names it") == 20
    assert "and 5 more" in found.stdout
    assert "not whole: 25 findings" in found.stdout
    answer = json.loads(as_json.stdout)
    assert (answer["ok"], answer["findings_by_kind"], answer["root"]) == (False, {"orphan": 25}, root)
    assert repaired.exit_code == 0
    assert "25 orphans removed" in repaired.stdout
