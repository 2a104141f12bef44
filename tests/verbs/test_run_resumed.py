"""Whatever subset of a run's files is gone, running it again gives the undisturbed manifest."""

from __future__ import annotations

import io
import json
import uuid
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abstractvision_batch.runs.files import MANIFEST
from abstractvision_batch.runs.manifest import list_parts, merge_manifest, missing_shards, part_name, read_part
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.results import METADATA_KEY
from abstractvision_batch.storage.store import Store, open_store
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run

SHARDS = 3
MADE = ["index", "request_id", "status", "error_kind", "file_name", "sha256", "pixel_sha256"]
PROPERTY = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _job(url: str, layout: str = "files") -> dict[str, Any]:
    """Six requests in three shards; the dogs fail."""
    return {
        "name": "property",
        "model": "avbatch/procedural",
        "backend": {"kind": "procedural", "fail_when": "dog"},
        "prompts": {"source": ["a fox", "a dog", "a cat"]},
        "params": {"width": 8, "height": 8},
        "samples_per_prompt": 2,
        "output": {"path": url, "layout": layout},
        "execution": {"batch_size": 1, "shard_size": 2, "writer_threads": 1},
    }


@pytest.fixture(scope="module")
def finished() -> dict[str, bytes]:
    return _finished("files")


@cache
def _finished(layout: str) -> dict[str, bytes]:
    """All files of an undisturbed run that was retried in vain once, so that one shard has two parts."""
    url = f"memory://{uuid.uuid4().hex}/run"
    run(_job(url, layout))
    retry(url)
    store = open_store(url)
    return {name: store.read(name) for name in _names(store)}


def _names(store: Store) -> list[str]:
    folders = [
        "",
        "manifest",
        "environments",
        "report",
        "artifacts",
        *(f"artifacts/{shard:05d}" for shard in range(SHARDS)),
    ]
    return [f"{folder}/{file.name}".lstrip("/") for folder in folders for file in store.scan(folder)]


def _copy(files: dict[str, bytes]) -> str:
    url = f"memory://{uuid.uuid4().hex}/run"
    store = open_store(url)
    for name, data in files.items():
        store.put(name, data)
    return url


def _made(url: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = open_run(url).table().select(MADE).to_pylist()
    return rows


def _table(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("layout", ["files", "webdataset", "parquet"])
@PROPERTY
@given(data=st.data())
def test_a_run_that_lost_any_files_but_its_records_is_made_whole_by_audit_and_run(
    layout: str, data: st.DataObject
) -> None:
    """Repair, run, and once more: a part that was redone may name a file that is gone only since the repair looked."""
    finished = _finished(layout)
    records = {name for name in finished if name == "run.json" or name.startswith("environments/")}
    lost = data.draw(st.sets(st.sampled_from(sorted(set(finished) - records))))
    url = _copy({name: content for name, content in finished.items() if name not in lost})

    run(_job(url, layout))
    audit(url, repair=True, grace_s=0)
    run(_job(url, layout))

    assert audit(url).findings == ()
    assert _made(url) == _table(finished[MANIFEST]).select(MADE).to_pylist()


@PROPERTY
@given(data=st.data())
def test_any_parts_removed_in_any_order_between_runs_give_the_undisturbed_manifest(
    finished: dict[str, bytes], data: st.DataObject
) -> None:
    url = _copy(finished)
    store, parts = open_store(url), sorted(name for name in finished if name.startswith("manifest/"))
    for _ in range(data.draw(st.integers(1, 3))):
        for name in data.draw(st.lists(st.sampled_from(parts), unique=True)):
            store.delete(name)
        missing = open_run(url).missing_shards()

        result = run(_job(url))

        assert result.generated == 2 * len(missing)
        assert _made(url) == _table(finished[MANIFEST]).select(MADE).to_pylist()


@pytest.mark.slow
@PROPERTY
@given(data=st.data())
def test_any_mixture_of_runs_and_retries_generates_each_success_once_and_ends_whole(data: st.DataObject) -> None:
    """Each retry names some prompts and may have a healthy backend; attempts count every try."""
    url = f"memory://{uuid.uuid4().hex}/run"
    run(_job(url))
    tries = dict.fromkeys(range(6), 1)
    failed = {2, 3}
    for _ in range(data.draw(st.integers(0, 4))):
        chosen = data.draw(st.sets(st.integers(0, 5), min_size=1))
        healthy = data.draw(st.booleans())
        where = f"index IN ({', '.join(str(index) for index in sorted(chosen))})"
        result = retry(url, where=where, overrides=["backend.fail_when=null"] if healthy else [])
        assert result.generated == len(chosen & failed)
        for index in chosen & failed:
            tries[index] += 1
        failed -= chosen if healthy else set()
    assert run(_job(url)).generated == 0

    rows = open_run(url).table().to_pylist()
    assert {row["index"]: row["attempts"] for row in rows} == tries
    assert {row["index"] for row in rows if row["status"] == "failed"} == failed
    assert audit(url).findings == ()


@settings(PROPERTY, max_examples=25)
@given(data=st.data())
def test_the_merge_takes_the_newest_attempt_of_each_row_however_many_there_are(
    finished: dict[str, bytes], data: st.DataObject
) -> None:
    """Further parts with any rows of a shard, written in any order; numbers of attempts may have gaps."""
    url = _copy({name: content for name, content in finished.items() if not name.endswith("-a1.parquet")})
    store, plan = open_store(url), open_run(url).plan
    newest = dict.fromkeys(range(plan.requests), 0)
    wanted = data.draw(
        st.lists(
            st.tuples(st.integers(0, SHARDS - 1), st.integers(1, 12), st.sets(st.integers(0, 1), min_size=1)),
            unique_by=lambda part: part[:2],
            max_size=8,
        )
    )
    for shard, attempt, slots in wanted:
        rows = read_part(store, shard, 0).take(sorted(slots))
        column = rows.schema.get_field_index("retry_round")
        rows = rows.set_column(column, "retry_round", pa.array([attempt] * rows.num_rows, pa.int64()))
        sink = io.BytesIO()
        note = json.dumps({"shard": shard, "attempt": attempt, "version": 1}).encode()
        pq.write_table(rows.replace_schema_metadata({METADATA_KEY: note}), sink)
        store.put(part_name(shard, attempt), sink.getvalue())
        for index in rows["index"].to_pylist():
            newest[index] = max(newest[index], attempt)

    merge_manifest(store, plan)

    merged = _table(store.read(MANIFEST))
    assert merged["index"].to_pylist() == list(range(plan.requests))
    assert merged["retry_round"].to_pylist() == list(newest.values())


@given(st.sets(st.integers(0, 40)), st.dictionaries(st.integers(0, 60), st.sets(st.integers(0, 9), min_size=1)))
def test_resume_is_the_plan_minus_the_first_parts(done: set[int], others: dict[int, set[int]]) -> None:
    """Parts of shards that the plan does not have, and later parts without the first one, make nothing done."""
    plan = PlanSummary(40, 40, 40, 40, 1, 1, 1, 1, "", (), ())
    store = open_store(f"memory://{uuid.uuid4().hex}/run")
    first = done | {shard for shard, attempts in others.items() if 0 in attempts}
    for shard in done:
        store.put(part_name(shard, 0), b"")
    for shard, attempts in others.items():
        for attempt in attempts:
            store.put(part_name(shard, attempt), b"")

    assert missing_shards(plan, list_parts(store)) == [shard for shard in range(40) if shard not in first]
