"""The plan that an extension adds to: which requests of the new spec it has, and which of its own that spec lacks.

It holds 14 bytes a request: 13 of its id, sorted, and one that notes that the new spec has the request too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress, islice
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from abstractvision_batch.errors import StorageError
from abstractvision_batch.plan.requests import BatchKey, Request, request_ids
from abstractvision_batch.runs.columns import REQUEST_ID_DIGITS
from abstractvision_batch.runs.plan_rows import iter_rows, read_ids
from abstractvision_batch.runs.plan_summary import PlanFile, PlanSummary

_ID = np.dtype(f"S{REQUEST_ID_DIGITS // 2}")
_CHUNK = 4096


class ExistingPlan:
    """A written plan, whose request ids are read once.

    Args:
        open_file: Opens a file of the plan by its name.
        summary: Of the plan.

    Raises:
        StorageError: a file of the plan cannot be read.
    """

    def __init__(self, open_file: Callable[[str], BinaryIO], summary: PlanSummary) -> None:
        self.summary = summary
        self._open_file = open_file
        self._ids = packed_ids(open_file, summary.files)
        if (rows := len(self._ids)) != summary.requests:
            raise StorageError(f"the plan has {rows:,} rows for {summary.requests:,} requests (its files are damaged)")
        self._ids.sort()
        self._met = np.zeros(len(self._ids), np.bool_)
        # Two seeds of a matrix may, once in 2**31, be one for a prompt: then two rows are one request.
        self._met[1:] = self._ids[1:] == self._ids[:-1]

    @property
    def missing(self) -> int:
        """Requests of the plan that `drop_known` has not met."""
        return int(len(self._met) - np.count_nonzero(self._met))

    def drop_known(self, requests: Iterable[tuple[BatchKey, Request]]) -> Iterator[tuple[BatchKey, Request]]:
        """Those of the requests, in their order, that the plan does not have."""
        requests = iter(requests)
        while chunk := list(islice(requests, _CHUNK)):
            places, known = self._find(request_ids([request for _, request in chunk]))
            self._met[places[known]] = True
            yield from compress(chunk, ~known)

    def disregard(self, ids: Iterable[str]) -> None:
        """Let these requests of the plan not be missing, whatever the new spec has."""
        if wanted := list(ids):
            places, known = self._find(wanted)
            self._met[places[known]] = True

    def missing_rows(self) -> Iterator[dict[str, Any]]:
        """Rows of the plan that `drop_known` has not met, in order."""
        for row in iter_rows(self._open_file, self.summary):
            places, _ = self._find([row["request_id"]])
            if not self._met[places[0]]:
                yield row

    def _find(self, ids: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Where each id is or would be, and whether it is there."""
        wanted = _packed(ids)
        places = np.searchsorted(self._ids, wanted)
        places[places == len(self._ids)] = 0
        return places, self._ids[places] == wanted


def packed_ids(open_file: Callable[[str], BinaryIO], files: Iterable[PlanFile]) -> NDArray[np.bytes_]:
    """Return the request ids of files of a plan, 13 bytes each, in order."""
    read = [_packed(ids) for file in files for ids in read_ids(open_file, file)]
    return np.concatenate([np.empty(0, _ID), *read])


def _packed(ids: Sequence[str]) -> NDArray[np.bytes_]:
    return np.frombuffer(bytes.fromhex("".join(ids)), _ID)
