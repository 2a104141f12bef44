"""Conditions over rows, judged by what DuckDB answers to the same SQL."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.runs.row_filter import parse_condition

ROWS = pa.table(
    {
        "n": [1, 2, 3, 4, None, 6],
        "x": [0.5, -1.0, None, 2.5, 3.0, 1e3],
        "kind": ["busy", "policy", None, "busy", "it's", "100%"],
        "prompt": ["a fox", "a red fox", "A FOX", "an owl", "", "under_score"],
        "a name": ["p", "q", "r", "s", "t", None],
        "flag": [True, False, None, True, True, False],
    }
)


@pytest.mark.parametrize(
    "condition",
    [
        "kind = 'busy'",
        "kind == 'busy' AND n > 1",
        "kind <> 'busy' or n is null",
        "kind != 'busy' OR NOT (n < 3)",
        "NOT kind = 'busy'",
        "kind IN ('busy', 'it''s')",
        "kind NOT IN ('busy', 'policy')",
        "n IN (1, 2, 6) AND x >= -1",
        "prompt LIKE '%fox'",
        "prompt NOT LIKE 'a%'",
        "prompt LIKE '_n owl'",
        "n BETWEEN 2 AND 4",
        "n NOT BETWEEN 2 AND 4 AND kind IS NOT NULL",
        '"a name" = \'q\' OR "a name" IS NULL',
        "N = 1 OR KIND = 'policy'",
        "flag",
        "NOT flag",
        "flag = FALSE",
        "x < 2.5e0 AND x<>-1.0",
        "n = 1 OR n = 2 AND kind = 'policy'",
        "((n = 1))",
        "2 < n",
        "n > x",
        "NOT NOT n = 1",
        "NULL IS NULL",
    ],
)
def test_a_condition_means_what_sql_means(condition: str) -> None:
    rows = ROWS
    expected = duckdb.sql(f"SELECT * FROM rows WHERE {condition}").to_arrow_table()

    assert rows.filter(parse_condition(condition, ROWS.schema)).to_pylist() == expected.to_pylist()


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("", "it ends where a column or a value is expected"),
        ("kind =", "it ends"),
        ("colour = 'red'", "no column 'colour'"),
        ("kind = busy", "single quotes"),
        ("kind = 'busy' n = 1", "'n' is not expected there"),
        ("(n = 1", r"\) is expected instead of the end"),
        ("n IN 1", r"\( is expected instead of '1'"),
        ("n IS 1", "NULL is expected"),
        ("n NOT = 1", "after NOT comes"),
        ("prompt LIKE prompt", "after LIKE"),
        ("n = 'one'", "of its type"),
        ("kind", "of its type"),
        ("n = 1; DROP TABLE rows", "cannot be read"),
        ("lower(kind) = 'busy'", "no column 'lower'"),
        ("n IN (" + ", ".join(["1"] * 5000) + ")", "more than 2,000"),
        ("(" * 99 + "n = 1" + ")" * 99, "more than 50 levels"),
    ],
)
def test_what_is_no_condition_is_refused_by_what_is_wrong(condition: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        parse_condition(condition, ROWS.schema)


def test_a_long_list_of_values_is_judged() -> None:
    condition = parse_condition("n IN (" + ", ".join(str(number) for number in range(2, 950)) + ")", ROWS.schema)

    assert ROWS.filter(condition)["n"].to_pylist() == [2, 3, 4, 6]
