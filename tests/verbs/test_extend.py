"""A run that is extended: what it had stays as it is, and only what is missing is added."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import SpecError, StorageError
from abstractvision_batch.execute.progress import Progress, ProgressTracker
from abstractvision_batch.job.load import load_job
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.finish import finish_run
from abstractvision_batch.verbs.rerun import rerun
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.start import start_run
from tests.support.emulators import StoreServer
from tests.support.jobs import MakeJob

ANIMALS = ["a fox", "a cat", "a dog", "an owl", "a bee"]
#: Sections of the spec that make 20 requests more of 20, some more of a kind each.
GROWN: dict[str, dict[str, Any]] = {
    "prompts": {"prompts": {"source": [*ANIMALS, "a cow", "a hen", "an ape", "an elk", "a pig"]}},
    "samples": {"samples_per_prompt": 8},
    "matrix": {"matrix": {"guidance_scale": [5, 7]}},
    "all": {
        "prompts": {"source": [*ANIMALS, "a cow"]},
        "samples_per_prompt": 5,
        "matrix": {"guidance_scale": [5, 7], "steps": [30, 20]},
    },
}
#: What is written anew once a run is whole.
PUBLISHED = {"manifest.parquet", "metadata.parquet", "README.md", "report/contact-sheet.png", "index.json"}
#: What was asked for and made, whatever the order of the plan.
MADE = [
    "request_id",
    "prompt_id",
    "sample_index",
    "prompt",
    "seed",
    "steps",
    "guidance_scale",
    "pixel_sha256",
    "status",
]


def files_of(folder: Path) -> dict[str, str]:
    """Digest of each file of a run that is written once."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    once = (name for name in names if name not in PUBLISHED and not name.startswith("gallery/"))
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in once}


def made(url: str | Path, options: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """What was made, in the order of the request ids."""
    rows: list[dict[str, Any]] = open_run(url, options).table().select(MADE).sort_by("request_id").to_pylist()
    return rows


def test_more_draws_and_seeds_only_add_and_a_skip_takes_nothing_away(make_job: MakeJob, tmp_path: Path) -> None:
    def job(n: int, seeds: list[int], skip: str | None = None) -> dict[str, Any]:
        draw = {"n": n, "guidance_scale": {"uniform": [1, 9]}, "steps": {"choice": [20, 30]}}
        return make_job(prompts={"source": ANIMALS[:2]}, draw=draw, seeds=seeds, samples_per_prompt=1, skip=skip)

    run(job(3, [1, 2]))
    before = made(tmp_path / "run")
    done = run(job(5, [7, 1, 2]), extend=True)

    assert (done.requests, len(before)) == (30, 12)
    after = made(tmp_path / "run")
    assert [row for row in after if row["request_id"] in {row["request_id"] for row in before}] == before
    assert sorted({row["seed"] for row in after}) == [1, 2, 7]
    with pytest.raises(SpecError, match="--extend only adds, and this spec lacks"):
        run(job(5, [7, 1, 2], skip="steps = 20"), extend=True)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("what", GROWN)
def test_a_spec_that_grew_adds_what_is_missing_and_touches_nothing(
    what: str, make_job: MakeJob, tmp_path: Path
) -> None:
    run(make_job(params={"width": 32, "height": 24, "seed": 7, "guidance_scale": 5, "steps": 30}))
    before, rows = files_of(tmp_path / "run"), open_run(tmp_path / "run").table()
    params = {"width": 32, "height": 24, "seed": 7}
    params |= {"guidance_scale": 5} if "matrix" not in GROWN[what] else {}
    params |= {"steps": 30} if what != "all" else {}
    grown = make_job(params=params, **GROWN[what])

    result = run(grown, extend=True)

    fresh = run({**grown, "output": {"path": str(tmp_path / "fresh")}})
    whole = open_run(tmp_path / "run").table()
    after = files_of(tmp_path / "run")
    assert (result.requests, result.generated, result.skipped) == (fresh.requests, fresh.requests - 20, 20)
    assert {name: after[name] for name in before} == before
    assert {name.partition("/")[0] for name in set(after) - set(before)} == {
        "artifacts",
        "extensions",
        "manifest",
        "plan",
    }
    assert whole.slice(0, 20) == rows
    assert whole["index"].to_pylist() == list(range(fresh.requests))
    assert made(tmp_path / "run") == made(tmp_path / "fresh")
    report = audit(tmp_path / "run")
    assert (report.findings, report.requests) == ((), fresh.requests)


def test_added_requests_share_batches_among_themselves_alone(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(prompts={"source": ["a fox", "a cat", "a dog"]}, samples_per_prompt=1))

    run(make_job(prompts={"source": ANIMALS}, samples_per_prompt=2), extend=True)

    rows = open_run(tmp_path / "run").table().to_pylist()
    assert [row["batch_id"] for row in rows] == [0, 0, 1, 2, 2, 3, 3, 4, 4, 5]
    assert [row["batch_size"] for row in rows] == [2, 2, 1, 2, 2, 2, 2, 2, 2, 1]
    assert [row["shard"] for row in rows] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]


def test_a_run_is_extended_again_and_again_and_resumed_by_the_newest_spec(make_job: MakeJob, tmp_path: Path) -> None:
    jobs = [make_job(samples_per_prompt=samples) for samples in (1, 2, 4)]
    generated = [run(job, extend=True).generated for job in jobs]
    (tmp_path / "run/manifest/00003-a0.parquet").unlink()

    resumed = run(jobs[-1])

    plan = open_run(tmp_path / "run").plan
    assert generated == [5, 5, 10]
    assert (resumed.generated, run(jobs[-1]).generated, run(jobs[-1], extend=True).generated) == (1, 0, 0)
    assert [file.name for file in plan.files] == ["plan.parquet", "plan/00001.parquet", "plan/00002.parquet"]
    assert [file.first_shard for file in plan.files] == [0, 2, 4]
    assert sorted(path.name for path in (tmp_path / "run/extensions").iterdir()) == ["00001.json", "00002.json"]
    assert audit(tmp_path / "run").findings == ()


@pytest.mark.slow
def test_a_plan_of_many_files_goes_on_with_the_next_number(make_job: MakeJob, tmp_path: Path) -> None:
    each = {"batch_size": 1, "shard_size": 1}
    run(make_job(samples_per_prompt=13, execution=each))

    run(make_job(samples_per_prompt=14, execution=each), extend=True)

    files = open_run(tmp_path / "run").plan.files
    assert [(file.name, file.first_shard, file.shards) for file in files] == [
        ("plan/00000.parquet", 0, 64),
        ("plan/00001.parquet", 64, 1),
        ("plan/00002.parquet", 65, 5),
    ]
    assert audit(tmp_path / "run").findings == ()


def test_a_run_that_is_not_done_is_extended_and_finished_at_once(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    (tmp_path / "run/manifest/00002-a0.parquet").unlink()

    assert run(make_job(samples_per_prompt=5), extend=True).generated == 4 + 5


def test_extending_where_there_is_nothing_is_a_new_run(make_job: MakeJob, tmp_path: Path) -> None:
    assert run(make_job(), extend=True).generated == 20
    assert not (tmp_path / "run/extensions").exists()


def test_a_spec_of_the_same_requests_adds_nothing_and_records_nothing(make_job: MakeJob, tmp_path: Path) -> None:
    """Another order of prompts with ids of their own is another data set, and the same requests."""
    rows = [{"id": name[-3:], "prompt": name} for name in ANIMALS]
    run(make_job(prompts={"source": rows}))
    before = files_of(tmp_path / "run")

    result = run(make_job(prompts={"source": rows[::-1]}), extend=True)

    assert (result.generated, result.skipped) == (0, 20)
    assert files_of(tmp_path / "run") == before


def test_prompts_with_an_id_may_be_put_anywhere(make_job: MakeJob, tmp_path: Path) -> None:
    rows = [{"id": name[-3:], "prompt": name} for name in ANIMALS]
    run(make_job(prompts={"source": rows}))

    result = run(make_job(prompts={"source": [{"id": "cow", "prompt": "a cow"}, *rows]}), extend=True)

    assert result.generated == 4
    assert open_run(tmp_path / "run").table()["prompt_id"].to_pylist()[20:] == ["cow"] * 4


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"samples_per_prompt": 3}, "lacks 5 of the 20 requests there, as sample 3 of prompt '000000', 'a fox'"),
        ({"prompts": {"source": ANIMALS[1:]}}, "lacks 20 of the 20"),
        ({"prompts": {"source": ["a cow", *ANIMALS]}}, "its row number: add prompts at the end"),
        ({"prompts": {"source": [*ANIMALS[:4], "a wasp", "a cow"]}}, "lacks 4 of the 20 requests there"),
        ({"params": {"width": 32, "height": 24, "seed": 8}}, "(params.seed: 7 there, 8 here)"),
        ({"params": {"width": 48, "height": 24, "seed": 7}}, "(params.width: 32 there, 48 here)"),
        (
            {"output": {"image_format": "jpeg"}, "samples_per_prompt": 5},
            '(output.image_format: the default there, "jpeg" here)',
        ),
        ({"execution": {"batch_size": 4}, "samples_per_prompt": 5}, "(execution.batch_size: 2 there, 4 here)"),
    ],
)
def test_what_does_more_than_add_is_refused_and_changes_nothing(
    make_job: MakeJob, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    run(make_job())
    before = files_of(tmp_path / "run")
    output = {"path": str(tmp_path / "run"), **change.get("output", {})}
    job = make_job(**{**change, "output": output})

    with pytest.raises(SpecError, match="--extend only adds") as caught:
        run(job, extend=True)
    with pytest.raises(SpecError, match="holds another run") as plain:
        run(job)

    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert "--extend" not in str(plain.value)
    assert files_of(tmp_path / "run") == before


def test_a_plain_run_names_extend_where_that_is_possible(make_job: MakeJob) -> None:
    run(make_job())

    with pytest.raises(SpecError, match=r"--new-run, or --extend, which keeps all 20 requests and adds 5\)"):
        run(make_job(samples_per_prompt=5))


def test_the_spec_of_before_an_extension_is_refused_by_name(make_job: MakeJob) -> None:
    run(make_job())
    run(make_job(samples_per_prompt=5), extend=True)

    with pytest.raises(SpecError, match=r"was extended since this spec, by that of <spec> on 20"):
        run(make_job())


def test_columns_that_come_or_change_later_are_one_column_of_the_manifest(make_job: MakeJob, tmp_path: Path) -> None:
    """Of a column that was whole numbers and is text now, the numbers are text too, as in one plan of all."""
    first = [{"prompt": "a fox", "year": 2020, "score": 1, "gone": True}, {"prompt": "a cat", "year": 2021, "score": 2}]
    second = [{**row, "style": "ink"} for row in first]
    second += [{"prompt": "a dog", "year": "late", "score": 2.5, "gone": None, "style": "oil"}]
    backend = {"kind": "procedural", "fail_when": "fox|dog"}
    run(make_job(prompts={"source": first}, samples_per_prompt=1, backend=backend))
    third = [{"prompt": row["prompt"]} for row in second] + [{"prompt": "an owl"}]

    for rows in (second, third):
        run(make_job(prompts={"source": rows}, samples_per_prompt=1, backend=backend), extend=True)
    retried = retry(tmp_path / "run", where="style = 'oil' OR year = '2020'", overrides=["backend.fail_when=null"])

    fresh = make_job(prompts={"source": [*second, {"prompt": "an owl"}]}, samples_per_prompt=1)
    run({**fresh, "output": {"path": str(tmp_path / "fresh")}})
    manifest, expected = open_run(tmp_path / "run").table(), open_run(tmp_path / "fresh").table()
    names = ["year", "score", "gone", "style"]
    values = [[None if row["style"] is None else row[name] for name in names] for row in expected.to_pylist()]
    assert [expected.schema.field(name).type for name in names] == [manifest.schema.field(name).type for name in names]
    assert manifest.schema.names == expected.schema.names
    assert [[row[name] for name in names] for row in manifest.to_pylist()][2:] == values[2:]
    assert manifest.select(names).slice(0, 2).to_pylist() == [
        {"year": "2020", "score": 1.0, "gone": True, "style": None},
        {"year": "2021", "score": 2.0, "gone": None, "style": None},
    ]
    assert (retried.generated, retried.failed) == (2, 0)
    assert audit(tmp_path / "run").findings == ()


def test_a_column_that_differs_by_case_alone_is_refused(make_job: MakeJob) -> None:
    run(make_job(prompts={"source": [{"prompt": "a fox", "Style": "ink"}]}))

    with pytest.raises(SpecError, match="column 'style' differs by case only from 'Style' of the run"):
        run(
            make_job(
                prompts={
                    "source": [{"prompt": "a fox", "style": "ink"}],
                },
                samples_per_prompt=5,
            ),
            extend=True,
        )


@pytest.mark.sampled(2)
@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_a_container_layout_is_extended_by_further_containers(layout: str, make_job: MakeJob, tmp_path: Path) -> None:
    """The files of the layout `parquet` have the columns of the prompts, so those may not change."""
    output = {"path": str(tmp_path / "run"), "layout": layout}
    rows = [{"prompt": name, "style": "ink"} for name in ANIMALS]
    run(make_job(prompts={"source": rows}, output=output))
    before = files_of(tmp_path / "run")
    more = [*rows, {"prompt": "a cow", "style": "oil"}]

    result = run(make_job(prompts={"source": more}, output=output), extend=True)

    after = files_of(tmp_path / "run")
    assert result.generated == 4
    assert {name: after[name] for name in before} == before
    assert audit(tmp_path / "run").findings == ()
    other = make_job(prompts={"source": [*more, {"prompt": "a hen", "year": 2020}]}, output=output)
    if layout == "parquet":
        with pytest.raises(SpecError, match=r"not those of the run there: year \(none there, int64 here\)"):
            run(other, extend=True)
    else:
        assert run(other, extend=True).generated == 4


def test_an_extended_run_is_rerun_as_one_plan(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(samples_per_prompt=1))
    run(make_job(samples_per_prompt=2), extend=True)

    again = rerun(tmp_path / "run", tmp_path / "again")

    columns = ["index", "shard", "batch_id", "batch_slot", *MADE]
    first, second = (open_run(tmp_path / name).table().select(columns) for name in ("run", "again"))
    assert again.generated == 10
    assert first == second
    assert audit(tmp_path / "run").root == audit(tmp_path / "again").root


def test_rows_so_far_are_one_table_while_an_extension_is_not_done(make_job: MakeJob, tmp_path: Path) -> None:
    """The manifest of before stays until the extension's is there."""
    run(make_job())
    backend = {"kind": "procedural", "fail_when": "cow"}
    source = [*({"prompt": name} for name in ANIMALS), {"prompt": "a cow", "style": "ink"}, {"prompt": "a hen"}]
    limited = {"batch_size": 2, "shard_size": 4, "max_failed": 0}

    stopped = run(make_job(prompts={"source": source}, backend=backend, execution=limited), extend=True)

    opened = open_run(tmp_path / "run")
    assert stopped.stopped is not None
    assert (stopped.requests, stopped.succeeded, stopped.failed) == (28, 20, 4)
    assert pq.read_table(tmp_path / "run/manifest.parquet").num_rows == 20
    assert opened.table()["style"].to_pylist() == [None] * 20 + ["ink"] * 4
    assert run(make_job(prompts={"source": source})).generated == 4
    assert pq.read_table(tmp_path / "run/manifest.parquet").num_rows == 28


@pytest.mark.sampled(3)
@pytest.mark.parametrize("lost", ["plan.parquet", "plan/00001.parquet", "plan/00002.parquet"])
def test_a_plan_that_a_crash_cut_off_is_written_by_the_next_run(make_job: MakeJob, tmp_path: Path, lost: str) -> None:
    for samples in (4, 5, 6):
        run(make_job(samples_per_prompt=samples), extend=True)
    before = files_of(tmp_path / "run")
    (tmp_path / "run" / lost).unlink()

    run(make_job(samples_per_prompt=6))

    assert files_of(tmp_path / "run") == before


def test_an_old_plan_whose_prompts_have_changed_since_is_not_guessed(make_job: MakeJob, tmp_path: Path) -> None:
    source = tmp_path / "prompts.txt"
    source.write_text("a fox\na cat\n")
    run(make_job(prompts={"source": str(source)}))
    source.write_text("a fox\na cat\na dog\n")
    run(make_job(prompts={"source": str(source)}), extend=True)
    (tmp_path / "run/plan.parquet").unlink()

    with pytest.raises(StorageError, match=r"the prompts that it was made of have changed .*restore plan\.parquet"):
        run(make_job(prompts={"source": str(source)}))


def test_an_extension_of_another_run_is_never_taken_for_one_of_this(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    run(make_job(samples_per_prompt=5), extend=True)
    record = tmp_path / "run/run.json"
    other = {**json.loads(record.read_text()), "run_id": "another"}
    record.unlink()

    with pytest.raises(StorageError, match=r"00001\.json: extends a run whose run\.json is gone"):
        run(make_job())
    record.write_text(json.dumps(other))
    with pytest.raises(StorageError, match=r"00001\.json: extends another run"):
        run(make_job())


def test_a_missing_extension_is_an_error_that_names_it(make_job: MakeJob, tmp_path: Path) -> None:
    for samples in (4, 5, 6):
        run(make_job(samples_per_prompt=samples), extend=True)
    (tmp_path / "run/extensions/00001.json").unlink()

    with pytest.raises(StorageError, match=r"00001\.json: is not there, and there are later ones"):
        run(make_job(samples_per_prompt=6))


def test_a_driver_that_ends_after_the_run_was_extended_leaves_the_merge_to_the_extension(
    make_job: MakeJob, tmp_path: Path
) -> None:
    """It planned 20 requests; when it would merge, 25 are planned and not all of them are done."""
    run(make_job())
    (tmp_path / "run/manifest.parquet").unlink()
    first, second = load_job(make_job()), load_job(make_job(samples_per_prompt=5))
    store = first.open_output(writable=True)
    record = start_run(first, store)
    start_run(second, store, extend=True)

    newest, counts = finish_run(store, record, ProgressTracker(Progress(requests=20), None))

    assert (newest.plan.requests, counts.succeeded) == (25, 20)
    assert not (tmp_path / "run/manifest.parquet").exists()
    assert run(second).generated == 5


@pytest.mark.sampled(2)
@pytest.mark.parametrize("same", [True, False], ids=["one spec", "two specs"])
def test_two_drivers_that_extend_at_once_agree_or_one_is_refused(same: bool, make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(execution={"batch_size": 2, "shard_size": 4}))
    commands = []
    for number, samples in enumerate((5, 5 if same else 6)):
        spec = tmp_path / f"{number}.yaml"
        slow = {"kind": "procedural", "delay_s": 0.05}
        spec.write_text(yaml.safe_dump(make_job(samples_per_prompt=samples, backend=slow)))
        commands.append([sys.executable, "-m", "abstractvision_batch", "run", str(spec), "--extend", "--quiet"])
    drivers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]

    said = [driver.communicate(timeout=120)[1] for driver in drivers]

    codes = sorted(driver.returncode for driver in drivers)
    if same:
        assert codes == [0, 0], said
    else:
        # The one with more samples also extends what the other one left, if that was there first.
        assert codes in ([0, 0], [0, 2]), said
        assert [driver.returncode for driver in drivers][1] == 0 or "another driver" in said[1], said
    whole = 5 if same or "extended by another driver" in said[1] else 6
    assert open_run(tmp_path / "run").counts.succeeded == whole * 5
    assert audit(tmp_path / "run").findings == ()


@pytest.mark.slow
def test_a_run_on_s3_is_extended_there(s3_server: StoreServer, make_job: MakeJob, tmp_path: Path) -> None:
    url = s3_server.new_url()
    run(make_job(output={"path": url}))
    grown = make_job(output={"path": url}, prompts={"source": [*ANIMALS, "a cow"]}, samples_per_prompt=5)

    result = run(grown, extend=True)

    run({**grown, "output": {"path": str(tmp_path / "fresh")}})
    assert result.generated == 10
    assert made(url) == made(tmp_path / "fresh")
    assert audit(url).findings == ()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_is_extended_on_ray_as_in_this_process(make_job: MakeJob, tmp_path: Path) -> None:
    on_ray = {"executor": "ray", "batch_size": 2, "shard_size": 4, "cpus_per_actor": 0.5}
    for path, execution in (("inline", {"batch_size": 2, "shard_size": 4}), ("ray", on_ray)):
        for samples in (4, 6):
            output = {"path": str(tmp_path / path)}
            run(make_job(samples_per_prompt=samples, output=output, execution=execution), extend=True)

    columns = ["index", "shard", "batch_id", "batch_slot", "file_name", "sha256", *MADE]
    inline, ray = (open_run(tmp_path / path).table().select(columns) for path in ("inline", "ray"))
    assert ray == inline


def test_the_command_extends_and_the_plan_says_before_what_it_adds(make_job: MakeJob, tmp_path: Path) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(make_job(samples_per_prompt=6)))
    added = tmp_path / "added.parquet"

    def avbatch(*arguments: str) -> Any:
        done = CliRunner().invoke(app, [*arguments, "--json"])
        return done.exit_code, json.loads(done.stdout) if done.stdout.startswith("{") else done.output

    assert avbatch("plan", str(spec), "--extend")[1]["kept_requests"] == 0
    run(make_job())
    shown = CliRunner().invoke(app, ["plan", str(spec), "--extend", "--rows", "1"]).stdout
    planned = avbatch("plan", str(spec), "--extend", "--output", str(added))[1]
    refused = avbatch("run", str(spec))
    both = avbatch("run", str(spec), "--extend", "--new-run")
    extended = avbatch("run", str(spec), "--extend")
    nothing = CliRunner().invoke(app, ["plan", str(spec), "--extend", "--output", str(tmp_path / "none.parquet")])
    status = avbatch("status", str(tmp_path / "run"))[1]

    assert shown.startswith("small: adds 10 requests in 3 shards to the 20 requests there, which stay as they are")
    assert (planned["requests"], planned["kept_requests"], planned["rows"][0]["index"]) == (10, 20, 20)
    assert pq.read_table(added)["index"].to_pylist() == list(range(20, 30))
    assert (refused[0], both[0]) == (2, 2)
    assert (extended[0], extended[1]["generated"], extended[1]["requests"]) == (0, 10, 30)
    assert nothing.stdout.startswith("small: adds nothing to the 30 requests there")
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0
    assert [one["requests"] for one in status["extensions"]] == [10]
    assert "| extended | 20" in (tmp_path / "run/README.md").read_text()
    assert "`plan.parquet`, `plan/` its requests" in (tmp_path / "run/README.md").read_text()


SPEC_PARTS = st.fixed_dictionaries(
    {
        "prompts": st.integers(1, 4),
        "samples": st.integers(1, 3),
        "steps": st.lists(st.sampled_from([1, 2, 3]), unique=True, min_size=1, max_size=2),
        "batch_size": st.just(2),
    }
)


def _job_of(parts: dict[str, Any], url: str) -> dict[str, Any]:
    return {
        "name": "property",
        "model": "avbatch/procedural",
        "backend": {"kind": "procedural"},
        "prompts": {"source": [f"picture {number}" for number in range(parts["prompts"])]},
        "params": {"width": 8, "height": 8},
        "matrix": {"steps": parts["steps"]},
        "samples_per_prompt": parts["samples"],
        "output": {"path": url},
        "execution": {"batch_size": parts["batch_size"], "shard_size": 3, "writer_threads": 1},
    }


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(first=SPEC_PARTS, more=SPEC_PARTS)
def test_extending_a_run_makes_what_a_fresh_run_of_the_grown_spec_makes(
    first: dict[str, Any], more: dict[str, Any]
) -> None:
    grown = {
        **more,
        "prompts": max(first["prompts"], more["prompts"]),
        "samples": max(first["samples"], more["samples"]),
        "steps": [*more["steps"], *(steps for steps in first["steps"] if steps not in more["steps"])],
    }
    url, fresh = (f"memory://{uuid.uuid4().hex}/run" for _ in range(2))
    run(_job_of(first, url))
    store = open_run(url).store
    before = {name: store.read(f"manifest/{name}") for name in store.list("manifest")}
    rows = open_run(url).table()

    result = run(_job_of(grown, url), extend=True)

    run(_job_of(grown, fresh))
    whole = open_run(url).table()
    assert {name: store.read(f"manifest/{name}") for name in before} == before
    assert whole.slice(0, rows.num_rows) == rows
    assert result.generated == whole.num_rows - rows.num_rows
    assert made(url) == made(fresh)
    assert audit(url).findings == ()
