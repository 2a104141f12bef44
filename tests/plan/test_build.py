"""The plan as a whole: its order, its columns, its files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abstractvision_batch.errors import StorageError
from abstractvision_batch.plan.request_ids import derive_seed
from abstractvision_batch.registry.cards import load_cards
from abstractvision_batch.registry.constraints import default_params
from abstractvision_batch.runs.columns import PLAN_SCHEMA, RESULT_SCHEMA, manifest_schema
from abstractvision_batch.runs.plan_rows import count_shard_rows, read_shard
from abstractvision_batch.runs.plan_summary import PlanSummary
from tests.support.counted_store import CountedFileSystem
from tests.support.planning import BuiltPlan, Planner

BATCH_KEY = ("task", "width", "height", "steps", "guidance_scale", "strength", "num_frames", "fps")
BATCH_COLUMNS = ("request_id", "batch_id", "batch_slot", "batch_size")


def opener(plan: BuiltPlan) -> Callable[[str], BinaryIO]:
    return lambda name: (plan.folder / name).open("rb")


def test_matrix_points_are_outermost_prompts_inside_samples_innermost(planner: Planner) -> None:
    plan = planner.build(["a", "b"], matrix={"steps": [1, 2], "guidance_scale": [3, 4]}, samples_per_prompt=2)

    order = [(r["steps"], r["guidance_scale"], r["prompt"], r["sample_index"]) for r in plan.rows]
    assert order == [(s, g, p, n) for s in (1, 2) for g in (3.0, 4.0) for p in "ab" for n in (0, 1)]
    assert plan.column("index") == list(range(16))
    assert (plan.summary.matrix_points, plan.summary.prompts, plan.summary.requests) == (4, 2, 16)


def test_zip_lists_are_walked_in_parallel_inside_the_matrix(planner: Planner) -> None:
    plan = planner.build(["a"], matrix={"steps": [1, 2]}, zip={"width": [32, 64], "height": [24, 48]})

    assert [(r["steps"], r["width"], r["height"]) for r in plan.rows] == [
        (s, w, h) for s in (1, 2) for w, h in ((32, 24), (64, 48))
    ]


def test_points_of_a_matrix_share_seeds_unless_the_seed_is_swept(planner: Planner) -> None:
    swept = planner.build(["a", "b"], matrix={"steps": [1, 2]}, samples_per_prompt=2).column("seed")
    seeds = planner.build(["a", "b"], matrix={"seed": [1, 2]}, samples_per_prompt=2).column("seed")

    assert swept[:4] == swept[4:]
    assert len(set(swept)) == 4
    assert len(set(seeds)) == 6


@pytest.mark.parametrize("axis", ["matrix", "zip"])
def test_seeds_that_are_listed_are_used_and_recorded_as_they_are(planner: Planner, axis: str) -> None:
    listed: dict[str, Any] = {axis: {"seed": [0, 42, 2**62], "steps": [1, 2, 3]}}
    plan = planner.build(["a", "b"], params={"seed": 5}, **listed)

    assert {row["seed"] for row in plan.rows} == {0, 42, 2**62}
    assert all(len({row["seed"] for row in plan.rows if row["prompt"] == prompt}) == 3 for prompt in "ab")


def test_further_samples_of_a_listed_seed_have_seeds_derived_from_it(planner: Planner) -> None:
    one = planner.build(["a"], matrix={"seed": [1, 2]})
    more = planner.build(["a"], matrix={"seed": [1, 2]}, samples_per_prompt=3)

    assert one.column("seed") == [1, 2]
    assert more.column("seed") == [
        1,
        *(derive_seed(1, "000000", n) for n in (1, 2)),
        2,
        *(derive_seed(2, "000000", n) for n in (1, 2)),
    ]
    assert set(one.column("request_id")) <= set(more.column("request_id"))


def test_a_run_of_fingerprint_version_1_keeps_the_seeds_that_it_derived(planner: Planner) -> None:
    plan = planner.build(["a"], matrix={"seed": [1, 2]}, version=1)

    assert plan.column("seed") == [derive_seed(seed, "000000", 0) for seed in (1, 2)]


def test_defaults_come_from_the_card_and_extra_from_both(planner: Planner) -> None:
    plan = planner.build(["a"], task="multi_view_image", params={"extra": {"b": [1], "a": 2.5}})

    row, card = plan.rows[0], default_params(load_cards()["avbatch/procedural"], "multi_view_image")
    names = ("width", "height", "steps", "guidance_scale", "num_frames")
    assert [row[name] for name in names] == [card.get(name) for name in names]
    assert isinstance(row["guidance_scale"], float)
    assert row["params_json"] == '{"a":2.5,"angles":["front","three_quarter","side","back"],"b":[1]}'


def test_the_schema_has_the_fixed_columns_first_and_no_null_type(planner: Planner) -> None:
    plan = planner.build([{"prompt": "a", "empty": None}])

    assert plan.schema.names == [*PLAN_SCHEMA.names, "empty"]
    assert manifest_schema(plan.schema).names == [*PLAN_SCHEMA.names, "empty", *RESULT_SCHEMA.names]
    assert not any(str(field.type) == "null" for field in manifest_schema(plan.schema))
    assert pq.read_table(plan.folder / "plan.parquet").schema.equals(plan.schema)


def test_a_long_plan_is_several_files_of_64_row_groups(planner: Planner) -> None:
    plan = planner.build([f"p{i}" for i in range(150)], execution={"batch_size": 1, "shard_size": 1})

    assert [(f.name, f.first_shard, f.shards) for f in plan.summary.files] == [
        ("plan/00000.parquet", 0, 64),
        ("plan/00001.parquet", 64, 64),
        ("plan/00002.parquet", 128, 22),
    ]
    assert sorted(p.name for p in plan.folder.iterdir()) == ["plan"]
    for file in plan.summary.files:
        data = (plan.folder / file.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size_bytes, file.sha256)


def test_row_group_i_is_shard_i_and_has_whole_batches(planner: Planner) -> None:
    plan = planner.build([f"p{i}" for i in range(200)], execution={"batch_size": 3, "shard_size": 2})

    for shard in range(plan.summary.shards):
        rows = read_shard(opener(plan), plan.summary, shard).to_pylist()
        assert {row["shard"] for row in rows} == {shard}
        assert len(rows) == rows[0]["batch_size"]
    counts = list(count_shard_rows(opener(plan), plan.summary, range(plan.summary.shards)))
    assert counts == [3] * 66 + [2]


def test_the_same_job_gives_the_same_bytes(planner: Planner) -> None:
    planner.write("p.jsonl", "".join(f'{{"prompt": "p{i}", "n": {i}, "width": {16 + i % 3}}}\n' for i in range(300)))
    job: dict[str, Any] = {"matrix": {"steps": [1, 2]}, "execution": {"shard_size": 2}}

    assert planner.build("p.jsonl", **job).summary == planner.build("p.jsonl", **job).summary


def test_a_summary_survives_json(planner: Planner) -> None:
    summary = planner.build(["a"]).summary

    assert PlanSummary.from_json(summary.to_json()) == summary


def test_a_damaged_plan_is_a_storage_error(planner: Planner) -> None:
    plan = planner.build(["a"])
    (plan.folder / "plan.parquet").write_bytes(b"damaged")

    with pytest.raises(StorageError, match=r"plan\.parquet: is damaged"):
        read_shard(opener(plan), plan.summary, 0)


def test_batch_and_shard_size_default_to_the_card_and_the_job(planner: Planner) -> None:
    plan = planner.build([f"p{i}" for i in range(40)], model="avbatch/shapes64", backend={"kind": "diffusers"})

    assert (plan.summary.batch_size, plan.summary.shard_size) == (8, 16)
    assert plan.column("batch_size") == [8] * 40


ROWS = st.lists(
    st.fixed_dictionaries(
        {"prompt": st.sampled_from("abc")}, optional={"width": st.sampled_from([16, 32]), "steps": st.integers(1, 3)}
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=ROWS,
    samples=st.integers(1, 4),
    batch_size=st.integers(1, 5),
    shard_sizes=st.tuples(st.integers(1, 9), st.integers(1, 50)),
)
def test_every_request_is_planned_once_and_shards_do_not_change_batches(
    planner: Planner, rows: list[dict[str, Any]], samples: int, batch_size: int, shard_sizes: tuple[int, int]
) -> None:
    plans = [
        planner.build(
            rows,
            matrix={"guidance_scale": [1, 2]},
            samples_per_prompt=samples,
            execution={"batch_size": batch_size, "shard_size": shard_size},
        )
        for shard_size in shard_sizes
    ]

    for plan, shard_size in zip(plans, shard_sizes, strict=True):
        planned = sorted((r["guidance_scale"], r["prompt_id"], r["sample_index"]) for r in plan.rows)
        assert planned == sorted(
            (g, f"{i:06d}", n) for g in (1.0, 2.0) for i in range(len(rows)) for n in range(samples)
        )
        assert len(set(plan.column("request_id"))) == len(plan.rows)
        check_batches(plan, batch_size, shard_size)
    assert [plans[0].column(name) for name in BATCH_COLUMNS] == [plans[1].column(name) for name in BATCH_COLUMNS]


def check_batches(plan: BuiltPlan, batch_size: int, shard_size: int) -> None:
    batches: dict[int, list[dict[str, Any]]] = {}
    for row in plan.rows:
        batches.setdefault(row["batch_id"], []).append(row)
    assert list(batches) == list(range(plan.summary.batches))
    for batch in batches.values():
        assert [row["batch_slot"] for row in batch] == list(range(len(batch)))
        assert {row["batch_size"] for row in batch} == {len(batch)}
        assert len(batch) <= batch_size
        assert len({tuple(row[name] for name in BATCH_KEY) for row in batch}) == 1
        assert len({row["shard"] for row in batch}) == 1
    shards = plan.column("shard")
    assert shards == sorted(shards)
    assert all(shards.count(shard) >= shard_size for shard in range(plan.summary.shards - 1))


def test_the_plan_leaves_nothing_in_the_temp_folder(
    planner: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))

    planner.build(["a"])
    planner.problems([""])

    assert list((tmp_path / "temp").iterdir()) == []


def test_prompts_are_fetched_once_for_all_variants(planner: Planner) -> None:
    name = planner.write("prompts.txt", "a fox\na heron\n")
    asked = []
    for variants in ({}, {f"v{steps}": {"params": {"steps": steps}} for steps in (2, 3, 4)}):
        CountedFileSystem.requests.clear()
        planner.build(f"counted://{planner.folder / name}", variants=variants)
        asked.append(dict(CountedFileSystem.requests))

    assert asked[0] == asked[1]
    assert asked[0]
