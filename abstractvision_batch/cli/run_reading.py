"""Reads what the commands show of a run that is on storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abstractvision_batch.execute.manifest import iter_rows
from abstractvision_batch.report.outcomes import OUTCOME_COLUMNS, Outcomes, collect_outcomes
from abstractvision_batch.run import open_run


def read_outcomes(path: str, options: Mapping[str, Any]) -> Outcomes:
    """Counts and failures of every row that has a result so far."""
    return collect_outcomes(iter_rows(open_run(path, options).store, OUTCOME_COLUMNS))
