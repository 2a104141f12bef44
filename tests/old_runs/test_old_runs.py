"""Runs of earlier versions stay: every version opens, audits, resumes, verifies, repeats, extends and compares them.

A test that fails here has found a run of a user that the change in hand would lose. The change gets a default, reads
the old name too or resumes old runs under their own fingerprint; the old runs are never made again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
import yaml

from abstractvision_batch.job.load import load_job
from abstractvision_batch.plan.build import prompts_digest
from tests.old_runs.runs import (
    ID,
    MODEL,
    OLD,
    SERVED,
    STATUS,
    Old,
    Unpack,
    answer,
    avbatch,
    each,
    each_job,
    finished_rows,
    kept_files,
    manifest,
    pixels,
    unpack,
)
from tests.support.openai_server import OpenAIServer, running_server

#: What each version gave its fingerprints as their version.
FINGERPRINT_VERSIONS = {"v0_1": 1}
#: States in which every request of the spec has succeeded.
WHOLE = ("done", "rerun")
#: Jobs that differ most; what takes long is done with these by default, and with all in the slow run.
VARIED = ("files", "webdataset", "parquet", "retried", "masked", "views", "seeds", "rows", "shapes64")
#: Jobs whose pictures have another aspect than the size asked for; a new run has to say that it stretches them.
STRETCHED = ("stretched",)
#: Jobs whose spec is not made larger by another sample alone.
NOT_GROWN = (*SERVED, *MODEL, "extended", "budget", "scheduled")


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Unpack]:
    """Unpack runs into the test's folder, which is then the current one."""
    monkeypatch.chdir(tmp_path)

    def into_the_tests_folder(old: Old, state: str) -> Path:
        unpack(old, state, tmp_path)
        return tmp_path / ("again" if state == "rerun" else old.place)

    yield into_the_tests_folder
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with running_server() as running:
        yield running


def run_spec(old: Old, server: OpenAIServer, *arguments: str, spec: str = "job.yaml") -> dict[str, object]:
    """Run a spec in the current folder, a server's on the one that is there now."""
    there = ["--set", f"backend.base_url={server.base_url}"] if old.name in SERVED else []
    more = ["--set", "execution.budget.requests=100"] if old.name == "budget" else []
    return answer("run", spec, *old.options, *there, *more, *arguments)


def test_every_version_has_its_runs() -> None:
    """One that was dropped by an ignore rule would be missed by no other test."""
    assert Counter(old.version for old in OLD) == {"v0_1": 21}
    assert all((old.folder / "job.yaml").is_file() and old.states for old in OLD)


@pytest.mark.parametrize("old", each_job())
def test_an_old_spec_is_valid_and_has_the_fingerprint_that_it_had(old: Old, unpacked: Unpack, tmp_path: Path) -> None:
    unpacked(old, old.states[0])
    time = datetime.fromisoformat("2026-11-02T00:00:00+00:00") if old.options else None

    fit = ["--set", "prompts.fit=stretch"] if old.name in STRETCHED else []
    checked = answer("validate", "job.yaml", *old.options, *fit)
    loaded = load_job("job.yaml", scheduled_at=time)

    assert (checked["ok"], checked["problems"], checked["requests"]) == (True, [], len(old.expected["rows"]))
    loaded = loaded.under(FINGERPRINT_VERSIONS[old.version])
    assert loaded.fingerprint(prompts_digest(loaded)) == old.expected["fingerprint"]


@pytest.mark.parametrize(("old", "state"), each())
def test_an_old_run_is_opened_listed_and_audited(old: Old, state: str, unpacked: Unpack) -> None:
    run = unpacked(old, state)
    requests, whole = len(old.expected["rows"]), state in WHOLE
    if state == "before":
        requests, whole = len(manifest(run)), True

    status = answer("status", str(run))
    listed = [one for one in answer("runs", ".")["runs"] if one["path"] == str(run)]
    record = answer("record", str(run))
    audited = answer("audit", str(run), ends_with=None)

    assert (status["requests"], status["complete"]) == (requests, state != "half")
    assert [one["requests"] for one in listed] == [requests]
    assert listed[0]["state"] == {"half": "incomplete"}.get(state, "complete" if whole else "failed rows")
    assert record["environments"]
    assert set(audited["findings_by_kind"]) == ({"missing_shard"} if state == "half" else set())
    assert (audited["exit_code"] == 0) == (state != "half")
    assert avbatch("status", str(run)) and avbatch("record", str(run))
    if state == "done":
        assert pixels(run) == old.pixels
        rows = manifest(run).to_pylist()
        expected = old.expected["rows"]
        assert all(row[name] == value for row in rows for name, value in expected[row[ID]].items())


@pytest.mark.parametrize(("old", "state"), each("half", but=("retried",)))
def test_a_half_finished_old_run_is_resumed_to_what_it_would_have_been(
    old: Old, state: str, unpacked: Unpack, server: OpenAIServer
) -> None:
    run = unpacked(old, state)
    files, rows = kept_files(run), finished_rows(run)
    assert 0 < len(rows) < len(old.expected["rows"])

    result = run_spec(old, server)

    assert (result["generated"], result["skipped"]) == (len(old.expected["rows"]) - len(rows), len(rows))
    after = kept_files(run)
    assert {name: after.get(name) for name in files} == files
    now = {row[ID]: row for row in manifest(run).to_pylist()}
    assert [{name: now[row[ID]][name] for name in row} for row in rows] == rows
    if old.expected["portable"]:
        assert pixels(run) == old.pixels
    else:
        assert list(pixels(run)) == list(old.pixels)
    assert answer("audit", str(run))["findings"] == []
    assert run_spec(old, server)["generated"] == 0
    run.rename("resumed")
    unpack(old, "done", Path.cwd())
    compared = answer("diff", str(run), "resumed", ends_with=None)
    assert set(compared["by_verdict"]) <= {"identical"} if old.expected["portable"] else {"identical", "close"}
    assert (compared["only_left"], compared["only_right"]) == ([], [])


@pytest.mark.parametrize(("old", "state"), each("half", only=("files", "webdataset", "parquet", "retried")))
def test_the_repair_of_a_half_finished_old_run_takes_nothing_from_it(old: Old, state: str, unpacked: Unpack) -> None:
    run = unpacked(old, state)
    files = kept_files(run)

    answer("audit", str(run), "--repair", "--grace-s", "0", ends_with=1)

    assert kept_files(run) == files


@pytest.mark.parametrize(("old", "state"), each("done"))
def test_a_finished_old_run_is_left_as_it_is_by_its_spec(
    old: Old, state: str, unpacked: Unpack, server: OpenAIServer
) -> None:
    run = unpacked(old, state)
    files = kept_files(run)

    assert run_spec(old, server)["generated"] == 0

    assert kept_files(run) == files


@pytest.mark.parametrize(("old", "state"), each(but=SERVED, slow_but=VARIED))
def test_an_old_run_is_verified(old: Old, state: str, unpacked: Unpack) -> None:
    run = unpacked(old, state)

    # A row that was retried with this override is generated again with its batch, whose spec lets it fail.
    override = ["--set", "backend.fail_when=null"] if old.name == "retried" else []
    verified = answer("verify", str(run), "--all", "--trust", *override, ends_with=None)

    assert set(verified["by_verdict"]) == {"match"} or not old.expected["portable"]
    assert {row["comparison"]["verdict"] for row in verified["rows"]} <= {"identical", "close"}
    assert verified["generated_again"] == sum(row[STATUS] == "ok" for row in finished_rows(run))


@pytest.mark.parametrize(("old", "state"), each("done", but=(*SERVED, *MODEL), slow_but=VARIED))
def test_an_old_run_is_executed_again_elsewhere(old: Old, state: str, unpacked: Unpack) -> None:
    run = unpacked(old, state)

    answer("rerun", str(run), "-o", "elsewhere", "--trust")

    assert list(pixels("elsewhere")) == list(old.pixels)
    assert pixels("elsewhere") == old.pixels or not old.expected["portable"]
    assert answer("diff", str(run), "elsewhere", ends_with=None)["paired"] == len(old.pixels)


@pytest.mark.parametrize(("old", "state"), each("done", but=NOT_GROWN, slow_but=VARIED))
def test_an_old_run_is_extended_by_adding_only(old: Old, state: str, unpacked: Unpack, server: OpenAIServer) -> None:
    run = unpacked(old, state)
    files, rows = kept_files(run), manifest(run)
    samples = yaml.safe_load(Path("job.yaml").read_text(encoding="utf-8")).get("samples_per_prompt", 1)
    each_sample = rows.num_rows // samples

    result = run_spec(old, server, "--extend", "--set", f"samples_per_prompt={samples + 1}")

    assert (result["generated"], result["skipped"]) == (each_sample, rows.num_rows)
    after = kept_files(run)
    assert {name: after.get(name) for name in files} == files
    kept = manifest(run).slice(0, rows.num_rows)
    assert kept.select(rows.column_names).to_pylist() == rows.to_pylist()
    assert answer("audit", str(run))["findings"] == []


@pytest.mark.parametrize(("old", "state"), each("before"))
def test_a_run_is_extended_by_the_grown_spec_of_its_time(old: Old, state: str, unpacked: Unpack) -> None:
    run = unpacked(old, state)
    files, rows = kept_files(run), manifest(run)
    assert answer("run", "before.yaml")["generated"] == 0

    result = answer("run", "job.yaml", "--extend")

    after = kept_files(run)
    assert (result["skipped"], result["requests"]) == (rows.num_rows, len(old.pixels))
    assert {name: after.get(name) for name in files} == files
    assert pixels(run) == old.pixels
    avbatch("run", "before.yaml", ends_with=2)


@pytest.mark.parametrize(("old", "state"), each(only=("retried",)))
def test_failed_rows_of_an_old_run_are_retried_and_no_others(old: Old, state: str, unpacked: Unpack) -> None:
    run = unpacked(old, state)
    rows = finished_rows(run)
    succeeded = {row[ID]: row for row in rows if row[STATUS] == "ok"}
    if state == "half":
        answer("run", "job.yaml", "--set", "backend.fail_when=null")
    files = kept_files(run)

    answer("retry", "job.yaml", "--set", "backend.fail_when=null")

    after = kept_files(run)
    assert {name: after.get(name) for name in files} == files
    assert pixels(run) == old.pixels
    now = {row[ID]: row for row in manifest(run).to_pylist()}
    assert [{name: now[request][name] for name in row} for request, row in succeeded.items()] == [*succeeded.values()]
    assert answer("audit", str(run))["findings"] == []


@pytest.mark.parametrize("old", each_job(only=("retried",)))
def test_a_column_that_has_another_name_today_is_answered_and_merged_under_that(old: Old, unpacked: Unpack) -> None:
    run = unpacked(old, "failed")
    assert "attempt" in pq.read_schema(run / "manifest.parquet").names
    before = manifest(run)

    answer(
        "retry",
        str(run),
        "--where",
        "retry_round = 0 and prompt = 'a cat'",
        "--set",
        "backend.fail_when=null",
        ends_with=1,
    )

    after = pq.read_table(run / "manifest.parquet")
    assert "attempt" not in before.column_names + after.column_names
    rounds = dict(zip(after["prompt"].to_pylist(), after["retry_round"].to_pylist(), strict=True))
    assert (set(before["retry_round"].to_pylist()), rounds["a cat"], rounds["a bee"]) == ({0}, 1, 0)
    assert answer("audit", str(run))["findings"] == []


@pytest.mark.parametrize("old", each_job(only=("retried",)))
def test_an_old_run_is_retried_by_what_it_recorded_alone(old: Old, unpacked: Unpack) -> None:
    run = unpacked(old, "failed")

    answer("retry", str(run), "--where", "prompt = 'a cat'", "--set", "backend.fail_when=null", ends_with=1)

    assert [row["prompt"] for row in manifest(run).to_pylist() if row[STATUS] != "ok"] == ["a bee"]


@pytest.mark.parametrize("old", each_job(only=("locked",)))
def test_an_old_lock_file_holds_the_job_to_what_it_was(old: Old, unpacked: Unpack, tmp_path: Path) -> None:
    """Other packages and another card than those of its time are refused by name; what else it says is still so.

    The job runs by the rules of the version that locked it, also where there is no run yet.
    """
    run = unpacked(old, "half")
    avbatch("lock", "job.yaml", "-o", "now.json")
    now, lock = json.loads(Path("now.json").read_text()), json.loads(Path("job.lock.json").read_text())
    released = ("software", "card")
    versioned = (*released, "fingerprint", "fingerprint_version")

    assert {name: now[name] for name in lock if name not in versioned} == {
        name: value for name, value in lock.items() if name not in versioned
    }
    Path("job.lock.json").write_text(json.dumps(lock | {name: now[name] for name in released}))
    answer("run", "job.yaml", "--locked")
    assert pixels(run) == old.pixels
    answer("run", "job.yaml", "--locked", "--set", "output.path=elsewhere")
    assert answer("record", "elsewhere")["fingerprint_version"] == lock["fingerprint_version"]
    avbatch("run", "job.yaml", "--locked", "--set", "params.seed=8", ends_with=2)
    Path("prompts.txt").write_text("a gnu\n", encoding="utf-8")
    avbatch("run", "job.yaml", "--locked", ends_with=2)


@pytest.mark.parametrize("old", each_job(only=("scheduled",)))
def test_an_old_backfill_goes_on(old: Old, unpacked: Unpack) -> None:
    unpacked(old, "half")

    looked = answer("backfill", "job.yaml", "--from", "2026-11-01", "--to", "2026-11-03", "--dry-run")

    assert [one["action"] for one in looked["partitions"]] == ["skipped", "pending", "pending"]
    assert [one["found"]["state"] for one in looked["partitions"]] == ["complete", "incomplete", "missing"]


@pytest.mark.slow
@pytest.mark.parametrize("old", each_job(only=("scheduled",)))
def test_an_old_schedule_goes_on(old: Old, unpacked: Unpack, tmp_path: Path) -> None:
    unpacked(old, "done")
    state = Path("ticks.schedule.json")
    # The state file names its spec in full: it is of a spec in that place.
    state.write_text(state.read_text().replace("/srv/job/scheduled", str(tmp_path)), encoding="utf-8")
    done = [tick["tick"] for tick in json.loads(state.read_text())["ticks"] if tick["state"] == "done"]

    avbatch("schedule", "ticks.yaml", "--cron", "* * * * * *", "--ticks", "1", "--catch-up", "none")

    ticks = {tick["tick"]: tick["state"] for tick in json.loads(state.read_text())["ticks"]}
    assert done and {ticks[tick] for tick in done} == {"done"}
    assert sum(one == "done" for one in ticks.values()) > len(done)


@pytest.mark.parametrize("old", each_job(only=STRETCHED))
def test_an_old_run_goes_on_stretching_and_a_new_one_refuses_to(old: Old, unpacked: Unpack) -> None:
    run = unpacked(old, "half")

    answer("run", "job.yaml")
    avbatch("run", "job.yaml", "--extend", "--set", "samples_per_prompt=2")
    refused = answer("run", "job.yaml", "--set", "output.path=new", ends_with=2)
    answer("run", "job.yaml", "--extend", "--set", "samples_per_prompt=3", "--set", "prompts.fit=crop", ends_with=2)

    assert {request: pixels(run)[request] for request in old.pixels} == old.pixels
    assert "has another aspect than 32x32" in refused["problems"][0]
