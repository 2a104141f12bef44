"""The requests that a person names, by their ids or what these begin with; each stands for its whole batch.

An image depends on the batch that it is generated in, so whoever generates one generates its batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import BinaryIO

import pyarrow.compute as pc

from abstractvision_batch.errors import SpecError
from abstractvision_batch.runs.plan_rows import read_ids, read_shard
from abstractvision_batch.runs.plan_summary import PlanSummary

#: Of an id, that are enough to name it.
MIN_CHARACTERS = 6
_SHOWN = 3

OpenFile = Callable[[str], BinaryIO]


@dataclass(frozen=True, slots=True)
class NamedRequests:
    """Requests of a plan."""

    ids: tuple[str, ...]
    batches: Mapping[int, frozenset[int]]
    """The batches that they are in, by shard."""


def find_requests(open_file: OpenFile, plan: PlanSummary, names: Sequence[str]) -> NamedRequests:
    """Find requests by their ids, or by the first characters of these.

    Raises:
        SpecError: a name is of none, or of several; a line for each.
        StorageError: the plan cannot be read.
    """
    wanted = {name.strip().lower() for name in names}
    lengths = {len(name) for name in wanted}
    found: dict[str, list[str]] = defaultdict(list)
    by_shard: dict[int, list[str]] = defaultdict(list)
    for shard, ids in _ids_by_shard(open_file, plan):
        for id_ in ids:
            for name in {id_[:length] for length in lengths} & wanted:
                found[name].append(id_)
                by_shard[shard].append(id_)
    problems = tuple(said for name in sorted(wanted) if (said := _problem_of(name, found[name], open_file, plan)))
    if problems:
        raise SpecError("\n".join(problems), problems=problems)
    batches = {}
    for shard, ids in by_shard.items():
        rows = read_shard(open_file, plan, shard)
        batches[shard] = frozenset(rows.filter(pc.field("request_id").isin(ids))["batch_id"].to_pylist())
    return NamedRequests(tuple(id_ for ids in by_shard.values() for id_ in ids), batches)


def _problem_of(name: str, found: Sequence[str], open_file: OpenFile, plan: PlanSummary) -> str | None:
    if len(name) < MIN_CHARACTERS:
        return f"request {name!r}: give at least {MIN_CHARACTERS} characters of its id"
    if len(found) == 1:
        return None
    if found:
        shown = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
        return f"request {name!r}: {len(found)} ids begin so: {shown} (give more characters)"
    ids = (id_ for _, ids in _ids_by_shard(open_file, plan) for id_ in ids)
    near = max(ids, key=lambda id_: _count_shared(id_, name), default=None)
    hint = "" if near is None else f" (the nearest is {near})"
    return f"request {name!r}: the plan has none of this id{hint}"


def _count_shared(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _ids_by_shard(open_file: OpenFile, plan: PlanSummary) -> Iterator[tuple[int, list[str]]]:
    for file in plan.files:
        yield from enumerate(read_ids(open_file, file), file.first_shard)
