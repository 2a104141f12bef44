"""Read which requests of a plan others took the place of: a column that plans of extensions may have.

Not covered: which requests supersede which (`plan.supersede`), and how their rows read (`runs.manifest`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.storage.in_flight import map_in_flight
from abstractvision_batch.storage.parquet import open_parquet

#: The column of an extension's plan: the id of the request whose place a request takes, if it takes one.
SUPERSEDES = "supersedes"


def superseded_ids(open_file: Callable[[str], BinaryIO], plan: PlanSummary) -> frozenset[str]:
    """Return the ids of the requests of a plan whose place others took."""

    def read(name: str) -> list[str | None]:
        with open_file(name) as stream, open_parquet(stream, name=name) as file:
            found: list[str | None] = file.read([SUPERSEDES]).column(0).to_pylist()
            return found

    return frozenset(old for _, ids in map_in_flight(plan.superseding, read) for old in ids if old is not None)
