"""Conditions that people write, in SQL: ``error_kind = 'busy' AND seed < 100``, as DuckDB reads it.

A condition compares columns and values, with a few functions. It gives the same answer wherever it is asked: it reads
no other table, file, setting or clock, and needs no more memory than its rows do. NULL is SQL's: for such a row the
condition is unknown.

Not covered: which rows to ask about. DuckDB is imported with the first condition.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from abstractvision_batch.errors import SpecError
from abstractvision_batch.text.suggestions import did_you_mean

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: Nothing but the rows can be reached. The configuration is locked once it is set.
SANDBOX = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "threads": "1",
    "memory_limit": "1GB",
}
#: To parse 100,000 parentheses takes 0.6 GB and 1 s (DuckDB 2.0).
MAX_CHARACTERS = 100_000
TIME_LIMIT_S = 10.0
#: What an expression may be made of: no subquery, window, lambda, placeholder or setting.
NODES = {
    *("COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "OPERATOR", "BETWEEN", "CASE", "CAST", "TYPE", "FUNCTION"),
}
OPERATORS = {"+", "-", "*", "/", "//", "%", "||", "~~", "!~~", "~~*", "!~~*", "~~~", "->>"}
#: Not `repeat`, `range`, `lpad` and the like: they fill the memory in one step, which neither DuckDB's limit nor an
#: interrupt ends. Nor `now` and `random`: the driver and its workers would choose different rows.
FUNCTIONS = {
    *("lower", "upper", "trim", "length", "contains", "starts_with", "ends_with", "substring", "nullif"),
    *("regexp_matches", "regexp_full_match", "abs", "round", "floor", "ceil", "date_part", "date_trunc"),
}
#: The condition has lines of its own, so that a comment in it ends with it.
#: Of a name, at its dots; more are in quotes.
_MAX_PARTS = 2
_NO_NAMES: Mapping[str, str] = MappingProxyType({})
_BEFORE, _AFTER = "FROM rows SELECT (\n", "\n)"


def meet_condition(
    rows: pa.Table, condition: str, *, noun: str = "column", other_names: Mapping[str, str] = _NO_NAMES
) -> list[bool | None]:
    """Return for each row whether it meets the condition; None where that is unknown.

    Args:
        rows: One at least.
        condition: The condition.
        noun: What messages call a column.
        other_names: Further names of columns that `rows` may have.

    Raises:
        SpecError: it cannot be read, asks for more than rows, compares what cannot be compared, or takes too long.
    """
    import duckdb

    columns: dict[str, Any] = {}
    fields: dict[str, dict[str, Any]] = {}
    for (name, *field), column in find_columns(condition, rows.schema.names, noun, other_names):
        if field:
            fields.setdefault(name, {})[field[0]] = rows[column].combine_chunks()
        else:
            columns[name] = rows[column]
    # SQL reads `extra.clip_skip` as a field of a column `extra`.
    columns |= {name: pa.StructArray.from_arrays([*below.values()], [*below]) for name, below in fields.items()}
    connection = open_database().cursor()
    timer = threading.Timer(TIME_LIMIT_S, connection.interrupt)
    timer.start()
    try:
        connection.register("rows", pa.table(columns or {"": rows.column(0)}))
        statement = f"FROM ({_BEFORE}{condition}{_AFTER} AS chosen) SELECT chosen, typeof(chosen)"
        chosen = connection.execute(statement).fetchall()
    except duckdb.InterruptException as exc:
        raise _wrong(condition, f"takes longer than {TIME_LIMIT_S:g} s") from exc
    except duckdb.Error as exc:
        raise _refused(condition, exc) from exc
    finally:
        timer.cancel()
        connection.close()
    if chosen and chosen[0][1] != "BOOLEAN":
        raise _wrong(condition, f"is {chosen[0][1]}, and a condition is true or false (compare it with something)")
    return [met for met, _ in chosen]


@cache
def open_database() -> DuckDBPyConnection:
    """Open this process's database, which holds nothing: rows are registered on a cursor."""
    import duckdb

    database = duckdb.connect(":memory:", config=SANDBOX)
    database.execute("SET GLOBAL TimeZone = 'UTC'")  # else workers in other zones would choose other rows
    database.execute("SET GLOBAL lock_configuration = true")
    return database


def find_columns(
    condition: str, known: Sequence[str], noun: str = "column", other_names: Mapping[str, str] = _NO_NAMES
) -> Collection[tuple[tuple[str, ...], str]]:
    """Return the columns that a condition names, as it names them and as they are, once nothing else is in it.

    A name without quotes that has a dot is in two parts.

    Raises:
        SpecError: it cannot be read, or asks for more than `known` columns.
    """
    if len(condition) > MAX_CHARACTERS:
        raise _wrong(condition, f"has {len(condition):,} characters, more than {MAX_CHARACTERS:,}")
    if not condition.strip():
        raise _wrong(condition, "is empty")
    selected, around = _parse(condition)
    if len(selected) != 1 or around != _parse("TRUE")[1]:
        raise _wrong(condition, "is more than one condition (do its parentheses match?)")
    found: dict[tuple[str, ...], str] = {}
    for node in _iter_nodes(selected):
        kind, function = node["class"].lower().replace("_", " "), node.get("function_name")
        if node["class"] not in NODES:
            raise _wrong(condition, f"a {kind} cannot stand in a condition on rows", node)
        if function is not None and function not in OPERATORS | FUNCTIONS:
            raise _wrong(condition, f"{function}() is not a function of rows ({', '.join(sorted(FUNCTIONS))})", node)
        if node.get("cast_type", {}).get("type_info") or (node["class"] == "TYPE" and node["children"]):
            raise _wrong(condition, "a value can be cast to a plain type alone", node)
        if node["class"] == "COLUMN_REF":
            parts = node["column_names"]
            name = ".".join(parts)
            column = _find_column(name, known, other_names)
            if column is None or len(parts) > _MAX_PARTS:
                near = did_you_mean(name, known)
                hint = f"did you mean {near}? " if near else ""
                said = f"no {noun} {name!r} ({hint}text is in 'single quotes'; {noun}s: {', '.join(known)})"
                raise _wrong(condition, said, node)
            key = tuple(part.casefold() for part in parts)
            if found.setdefault(key, column) != column:
                raise _wrong(condition, f"names {column!r} and {found[key]!r}, which SQL takes for one", node)
    return found.items()


def _find_column(name: str, known: Sequence[str], other_names: Mapping[str, str]) -> str | None:
    """Find a column by its name, else by its name in any case, else by the name that another version gave it."""
    if name in known:
        return name
    same = next((one for one in known if one.casefold() == name.casefold()), None)
    return same or (other_names[name] if other_names.get(name) in known else None)


def _parse(condition: str) -> tuple[list[Any], Any]:
    """Return what the statement of a condition selects, and the rest of the statement."""
    import duckdb

    text = f"{_BEFORE}{condition}{_AFTER}"
    try:
        with open_database().cursor() as connection:
            ((answer,),) = connection.execute("SELECT json_serialize_sql(?)", [text]).fetchall()
    except duckdb.Error as exc:
        raise _refused(condition, exc) from exc
    parsed = json.loads(answer)
    if parsed["error"]:
        raise _wrong(condition, parsed["error_message"], {"query_location": int(parsed.get("position", len(text)))})
    return parsed["statements"][0]["node"].pop("select_list", []), parsed


def _iter_nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict) and "class" in tree:
        yield tree
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _iter_nodes(part)


def _refused(condition: str, error: Exception) -> SpecError:
    return _wrong(condition, str(error).partition("\n")[0].partition(" Error: ")[2] or str(error))


def _wrong(condition: str, said: str, node: dict[str, Any] | None = None) -> SpecError:
    shown = condition if len(condition) <= 200 else f"{condition[:199]}…"
    at = -1 if node is None else node["query_location"] - len(_BEFORE)  # in bytes
    place = f" at character {len(condition.encode()[:at].decode(errors='ignore')) + 1}" if at >= 0 else ""
    if at >= len(condition.encode()):
        place = " at its end"
    return SpecError(f"{shown!r}{place}: {' '.join(said.split())}")
