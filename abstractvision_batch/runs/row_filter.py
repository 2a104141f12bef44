"""Choose rows of the manifest by a condition of SQL (`documents.conditions`): what `--where` does.

A row for which the condition is unknown, as where it compares NULL, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from abstractvision_batch.documents import conditions

#: Columns that runs of other versions have under another name.
OTHER_NAMES = {"attempt": "retry_round", "retry_round": "attempt"}


def check_condition(condition: str, schema: pa.Schema) -> None:
    """Refuse what is not a condition over columns of `schema`.

    Raises:
        SpecError: it cannot be read, asks for more than rows, or compares what cannot be compared.
    """
    filter_rows(pa.table({field.name: pa.nulls(1, field.type) for field in schema}), condition)


def find_columns(condition: str, known: Sequence[str]) -> set[str]:
    """Return those of the known columns that a condition names.

    Raises:
        SpecError: as of `check_condition`.
    """
    return {column for _, column in conditions.find_columns(condition, known, other_names=OTHER_NAMES)}


def filter_rows(rows: pa.Table, condition: str) -> pa.Table:
    """Return the rows that meet the condition, in their order.

    Raises:
        SpecError: as of `check_condition`, or it takes too long.
    """
    met = conditions.meet_condition(rows, condition, other_names=OTHER_NAMES)
    return rows.filter(pa.array(met, pa.bool_()))
