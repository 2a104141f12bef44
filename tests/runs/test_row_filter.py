"""Conditions over rows: what SQL says they mean, and what is refused before any row is read."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from abstractvision_batch.documents import conditions
from abstractvision_batch.errors import SpecError
from abstractvision_batch.runs.row_filter import check_condition, filter_rows

ROWS = pa.table(
    {
        "n": [1, 2, 3, 4, None, 6],
        "x": [0.5, -1.0, None, 2.5, 3.0, 1e3],
        "kind": ["busy", "policy", None, "busy", "it's", "100%"],
        "prompt": ["a fox", "a red fox", "A FOX", "an owl", "", "under_score"],
        "a name": ["p", "q", "r", "s", "t", None],
        "flag": [True, False, None, True, True, False],
        "made_at": pa.array([datetime.datetime(2026, 11, day, tzinfo=datetime.UTC) for day in range(1, 7)]),
        "metadata_json": ['{"a": 1}', None, "{}", "{}", "{}", "{}"],
        "attempt": [0, 0, 0, 1, 1, 2],
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
        "prompt LIKE prompt",
        "lower(prompt) = 'a fox' -- in any case",
        "n + 1 = 3 OR length(kind) > 4",
        "prompt ILIKE '%FOX' AND prompt ~ '.* red .*'",
        "made_at >= '2026-11-03' AND made_at < TIMESTAMP '2026-11-05'",
        "metadata_json->>'$.a' = '1'",
        "CASE WHEN n = 1 THEN TRUE ELSE coalesce(flag, FALSE) END",
        "CAST(x AS INTEGER) = 3",
    ],
)
def test_a_condition_means_what_sql_means(condition: str) -> None:
    rows = ROWS
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("rows", rows.append_column("row", pa.array(range(rows.num_rows))))
        chosen = connection.execute(f"SELECT row FROM rows WHERE {condition}\nORDER BY row").fetchall()

    assert filter_rows(rows, condition).to_pylist() == rows.take([row for (row,) in chosen]).to_pylist()


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("", "is empty"),
        ("kind =", "at its end: syntax error"),
        ("colour = 'red'", "at character 1: no column 'colour'"),
        ("n = 1 AND promt = 'a'", r"at character 11: no column 'promt' \(did you mean prompt\?"),
        ("kind = busy", "no column 'busy' .*single quotes.*columns: n, x, kind"),
        ("kind = 'é' AND busy", "at character 16: no column 'busy'"),
        ("kind = 'busy' n = 1", 'at character 15: syntax error at or near "n"'),
        ("(n = 1", "syntax error"),
        ("n = 'one'", "Could not convert string 'one' to INT64"),
        ("kind", "is VARCHAR, and a condition is true or false"),
        ("n = 1; DROP TABLE rows", 'syntax error at or near ";"'),
        ("n IN (" + ", ".join(["1"] * 50_000) + ")", "has 150,005 characters, more than 100,000"),
        ("(" * 20_000 + "n = 1" + ")" * 20_000, "Max expression depth|memory exhausted"),
        ("n = 1 AND N = 2 AND \"Prompt\" = 'a' AND prompt = 'a'", "which SQL takes for one"),
    ],
)
def test_what_is_not_a_condition_is_refused_in_one_line(condition: str, said: str) -> None:
    schema = ROWS.schema.append(pa.field("Prompt", pa.string()))

    with pytest.raises(SpecError, match=said) as refused:
        check_condition(condition, schema)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    "condition",
    [
        "kind = (SELECT content FROM read_text('/etc/hostname'))",
        "n IN (SELECT 1 FROM read_csv('/etc/passwd'))",
        "n IN (SELECT n FROM rows)",
        "EXISTS (FROM duckdb_settings())",
        "n IN (WITH RECURSIVE t AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM t) SELECT x FROM t)",
        "n IN (SELECT * FROM generate_series(1, 100000000000))",
        "len(range(100000000000)) > n",
        "length(repeat('x', 100000000000)) > n",
        "lpad('x', 1000000000, 'y') = kind",
        "list_sum(list_transform(range(100000000), lambda y: y + n)) > 0",
        "kind = getenv('HOME')",
        "kind = current_setting('memory_limit')",
        "made_at < now()",
        "made_at < current_timestamp",
        "random() < 0.5",
        "sum(n) > 1",
        "row_number() OVER () = 1",
        "nextval('s') = 1",
        "COLUMNS('n') = 1",
        "*",
        "n = $1",
        "n = ?",
        "n = #1",
        "n::INTEGER[100000] IS NULL",
        "ROWS.n = 1",
        "rowid = 1",
        "n = 1) FROM rows WHERE (TRUE",
        "n = 1), (TRUE",
        "n = 1) UNION SELECT (TRUE",
        "n = 1) LIMIT (1",
        "n = 1); ATTACH '/tmp/x.db'; SELECT (TRUE",
        "n = 1); COPY rows TO '/tmp/x.csv'; SELECT (TRUE",
        "n = 1); SET lock_configuration = false; SELECT (TRUE",
        "n = 1); INSTALL httpfs; SELECT (TRUE",
        "n = 1); PRAGMA database_list; SELECT (TRUE",
        "n = 1 /*",
    ],
)
def test_a_condition_reaches_nothing_but_the_rows(condition: str) -> None:
    began = time.monotonic()

    with pytest.raises(SpecError) as refused:
        filter_rows(ROWS, condition)
    assert "\n" not in str(refused.value)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY (SELECT 1) TO 'copied.csv'",
        "ATTACH 'attached.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '10GB'",
        "RESET lock_configuration",
        "SELECT * FROM ROWS",
    ],
)
def test_the_database_behind_conditions_is_locked(statement: str) -> None:
    """Were the check of a condition to miss something, this is what it would meet."""
    with pytest.raises(duckdb.Error):
        conditions.open_database().execute(statement)
    assert not {"copied.csv", "attached.db"} & {path.name for path in Path.cwd().iterdir()}


def test_a_condition_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "TIME_LIMIT_S", 0.05)
    many = pa.table({"kind": ["a" * 1000 + "b"] * 100_000})

    with pytest.raises(SpecError, match="takes longer"):
        filter_rows(many, "kind ~ '(.*a.*b.*){9}c'")


@pytest.mark.parametrize("name", ["attempt", "retry_round"])
def test_a_column_answers_to_its_name_in_other_versions(name: str) -> None:
    assert filter_rows(ROWS, f"{name} = 1")["n"].to_pylist() == [4, None]
    assert filter_rows(ROWS.rename_columns({"attempt": "retry_round"}), f"{name} = 1")["n"].to_pylist() == [4, None]


def test_columns_that_differ_in_case_are_told_apart() -> None:
    rows = pa.table({"prompt": ["a", "b"], "Prompt": ["c", "a"]})

    assert filter_rows(rows, "prompt = 'a'").to_pylist() == [{"prompt": "a", "Prompt": "c"}]
    assert filter_rows(rows, "\"Prompt\" = 'a'").to_pylist() == [{"prompt": "b", "Prompt": "a"}]


def test_a_column_that_sql_cannot_hold_is_left_alone() -> None:
    rows = pa.table({"n": [1, 2], "half": pa.array([1.0, 2.0]).cast(pa.float16())})

    assert filter_rows(rows, "n = 2")["n"].to_pylist() == [2]


def test_a_long_list_of_values_is_read() -> None:
    chosen = filter_rows(ROWS, "n IN (" + ", ".join(str(number) for number in range(2, 9000)) + ")")

    assert chosen["n"].to_pylist() == [2, 3, 4, 6]
