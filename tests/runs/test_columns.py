"""Names of columns that an earlier version wrote."""

from __future__ import annotations

import pyarrow as pa
import pytest

from abstractvision_batch.runs.columns import (
    PLAN_SCHEMA,
    RESULT_SCHEMA,
    manifest_schema,
    names_in_file,
    plan_schema,
    reserved_name,
    with_current_names,
)


def test_a_retry_round_is_found_under_its_earlier_name() -> None:
    earlier = pa.table({"index": [0, 1], "attempt": [0, 1]})

    assert names_in_file(["retry_round", "index"], earlier.schema) == ["attempt", "index"]
    assert with_current_names(earlier).column_names == ["index", "retry_round"]
    assert names_in_file(["retry_round"], RESULT_SCHEMA) == ["retry_round"]


def test_a_run_whose_prompts_have_a_column_retry_round_keeps_the_earlier_name() -> None:
    """An earlier version let prompts have it; no two columns of a manifest may have one name."""
    names = manifest_schema(plan_schema(pa.schema([("retry_round", pa.string())]))).names

    assert sorted(names) == sorted({*names}) == sorted([*PLAN_SCHEMA.names, *RESULT_SCHEMA.names, "attempt"])


@pytest.mark.parametrize("name", ["retry_round", "attempt", "Attempt"])
def test_new_prompts_may_have_neither_name(name: str) -> None:
    assert reserved_name(name) == name.lower()
