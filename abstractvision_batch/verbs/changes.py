"""Find differences in weights, packages, hardware and kernel switches between two runs, or a run and this machine."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from abstractvision_batch.errors import GenerationError
from abstractvision_batch.execute.requests import INPUT_DIGESTS, InputImages
from abstractvision_batch.job.load import Job
from abstractvision_batch.registry.weights import Weights
from abstractvision_batch.runs.environment import describe_driver, differing_values
from abstractvision_batch.runs.environment_files import read_environments
from abstractvision_batch.runs.opened import Run
from abstractvision_batch.runs.weights import read_weights
from abstractvision_batch.verbs.model_check import find_weights

#: What a driver says of itself that no pixel depends on.
_NO_MATTER = ("host", "argv", "git_commit", "git_dirty")


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that two runs do not share.

    `kind` is identity, runtime, card, prompts, input, weights or environment.
    """

    kind: str
    name: str
    left: Any
    right: Any

    def __str__(self) -> str:
        return f"{self.name} was {self.left} and is {self.right}"


def find_changes_since(source: Run, job: Job) -> Iterator[Change]:
    """What has changed since a run was made, as far as it shows before anything is generated.

    Args:
        source: The run.
        job: Its spec, as it would be executed now.
    """
    for variant in job.variants:
        yield from _weights_changes(read_weights(source.store, variant.model_folder), find_weights(variant))
    for name, left, right in differing_values(source.record.data["environment"], describe_driver()):
        if name not in _NO_MATTER:
            yield Change("environment", name, left, right)


def weights_changes(left: Run, right: Run) -> Iterator[Change]:
    """Files of the weights of two runs that are not the same; of variants, those of models that both have."""
    for folder in left.record.model_folders:
        yield from _weights_changes(read_weights(left.store, folder), read_weights(right.store, folder))


def _weights_changes(left: Weights | None, right: Weights | None) -> Iterator[Change]:
    """Files of the weights that are not the same; nothing where one side is not known."""
    if left is None or right is None:
        return
    before, after = left.files, right.files
    for name in left.differing_files(right):
        one, other = before.get(name), after.get(name)
        yield Change(
            "weights", name, None if one is None else one.sha256[:12], None if other is None else other.sha256[:12]
        )


def input_changes(rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Change]:
    """Input images and masks of rows that are not what they were planned with; each is read once.

    Args:
        rows: Of a plan or a manifest; those of earlier versions do not say what their images were.
        options: fsspec options of the images, secrets resolved.
    """
    seen: set[str] = set()
    read = InputImages(options).read
    for row in rows:
        for column, digest in INPUT_DIGESTS.items():
            place, left = row.get(column), row.get(digest)
            if place is None or left is None or place in seen:
                continue
            seen.add(place)
            try:
                right = hashlib.sha256(read(place)).hexdigest()[:12]
            except GenerationError:
                right = None
            if right != left[:12]:
                yield Change("input", place, left[:12], right)


def environment_changes(left: Run, right: Run) -> Iterator[Change]:
    """What of the workers' software, machine and switches differs; a value that several workers differ in is a list."""
    one, other = (_all_values(read_environments(run.store).values()) for run in (left, right))
    for name, before, after in differing_values(one, other):
        yield Change("environment", name, before, after)


def _all_values(descriptions: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Each leaf's value, or the sorted list of them where descriptions differ."""
    found: dict[str, list[Any]] = defaultdict(list)
    for description in descriptions:
        for name, value in _leaves(description, ""):
            if value not in found[name]:
                found[name].append(value)
    return {name: values[0] if len(values) == 1 else sorted(values, key=repr) for name, values in found.items()}


def _leaves(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item
