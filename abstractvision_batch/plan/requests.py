"""Prompts × points × samples: every request of a job in plan order, and the columns of a run of them.

Points of the matrix are outermost, prompts inside, samples innermost, so neighbours share what a forward pass shares.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import Job
from abstractvision_batch.job.other_params import expand_loras, split_others, to_column
from abstractvision_batch.job.param_names import extra_key
from abstractvision_batch.job.points import (
    PARAM_COLUMNS,
    axis_types,
    base_params,
    expand_points,
    extra_params,
    find_axes,
)
from abstractvision_batch.plan.request_ids import RequestIds, canonical_json, derive_seed
from abstractvision_batch.prompts.mapping import ROW_PARAMS
from abstractvision_batch.prompts.prompts import Prompt
from abstractvision_batch.prompts.sizes import SizePlanner
from abstractvision_batch.runs.columns import PLAN_FORMAT, VARIANT

_NEGATIVE, _SEED = ROW_PARAMS.index("negative_prompt"), ROW_PARAMS.index("seed")
_SHARED = tuple(ROW_PARAMS.index(name) for name in PARAM_COLUMNS)
_REMEMBERED_GROUPS = 10_000
_NO_TYPES: Mapping[str, str] = MappingProxyType({})

BatchKey = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """What requests with one batch key at one point have in common."""

    key: BatchKey
    columns: dict[str, Any]
    """Values of the columns that they share."""
    negative_prompt: str | None
    base_seed: int
    ids: RequestIds


class Request(NamedTuple):
    """One request: a prompt at a point, and the number of its sample."""

    group: Group
    prompt: Prompt
    sample_index: int
    seed: int


class Expansion:
    """Expands a job's prompts to requests; in a plan of format 1, sizes are left to the backend.

    `row_types` are the types of the columns that rows feed of parameters which only the backend has.
    """

    def __init__(self, job: Job, format: int = PLAN_FORMAT, row_types: Mapping[str, str] = _NO_TYPES) -> None:
        self._spec = job.spec
        self._sizes = SizePlanner(job.spec, job.card) if format > 1 else None
        self._points = expand_points(job.spec, job.card)
        self._base = base_params(job.spec, job.card)
        self._extra = extra_params(job.spec, job.card)
        self._row_params = tuple(row_types)
        #: Types of the columns of parameters that only the backend has, by name.
        self.other_types = {**axis_types(job.spec, job.card), **row_types}
        self._seeds_are_listed = job.version > 1 and "seed" in find_axes(job.spec)

    @property
    def samples(self) -> int:
        """Requests of a prompt at a point: its seeds, where they are listed."""
        return len(self._spec.seeds) or self._spec.samples_per_prompt

    @property
    def requests_per_prompt(self) -> int:
        """Points times samples."""
        return len(self._points) * self.samples

    @property
    def points(self) -> int:
        """Points of matrix × zip; 1 where nothing is swept."""
        return len(self._points)

    def requests(self, read_prompts: Callable[[], Iterable[Prompt]]) -> Iterator[tuple[BatchKey, Request]]:
        """Every request with its batch key; `read_prompts` is called once a point."""
        samples, listed = range(self.samples), self._spec.seeds
        for point in self._points:
            values = {**self._base, **point}
            groups: dict[tuple[Any, ...], Group] = {}
            for prompt in read_prompts():
                params, image = prompt.params, prompt.image
                shared = (params[2:], image and (image.width, image.height), prompt.mask is not None)
                group = groups.get(shared)
                if group is None:
                    if len(groups) >= _REMEMBERED_GROUPS:
                        groups.clear()
                    group = groups[shared] = self._make_group(point, values, prompt)
                own_seed = params[_SEED]
                for sample in samples:
                    if listed:
                        seed = listed[sample]
                    elif own_seed is not None:
                        seed = own_seed + sample
                    elif self._seeds_are_listed and sample == 0:
                        seed = group.base_seed
                    else:
                        seed = derive_seed(group.base_seed, prompt.id, sample)
                    yield group.key, Request(group, prompt, sample, seed)

    def _make_group(self, point: Mapping[str, Any], values: Mapping[str, Any], prompt: Prompt) -> Group:
        own = {name: prompt.params[index] for name, index in zip(PARAM_COLUMNS, _SHARED, strict=True)}
        rows = zip(self._row_params, prompt.params[len(ROW_PARAMS) :], strict=True)
        others = {**point, **{name: json.loads(text) for name, text in rows if text is not None}}
        extra = {**self._extra, **split_others(others)}
        params = {name: values[name] if own[name] is None else own[name] for name in PARAM_COLUMNS}
        if self._sizes is None and isinstance(params["fps"], float):
            raise SpecError(
                f"fps: {params['fps']}: the run there is of an earlier version, whose frames per second are whole "
                "(give a whole number, or start a new run)"
            )
        size = prompt.image.size if prompt.image else None
        meant = self._spec.backend.as_meant(expand_loras(self._spec, extra))
        named = {**params, "extra": meant}  # of an id, the size that is asked for
        if size is not None and self._sizes is not None:
            asked = self._sizes.asked(point, (own["width"], own["height"]))
            params["width"], params["height"] = self._sizes.choose(size, asked)
            if self._spec.prompts.fit in ("crop", "pad"):
                named["fit"] = self._spec.prompts.fit
        extra_json = canonical_json(extra)
        own_columns = {name: to_column(extra.get(extra_key(name)), type_) for name, type_ in self.other_types.items()}
        return Group(
            key=(*params.values(), size, prompt.mask is not None, extra_json),
            columns={**params, "params_json": extra_json, **own_columns},
            negative_prompt=values["negative_prompt"],
            base_seed=values["seed"],
            ids=RequestIds(self._spec, named),
        )


class ColumnBuilder:
    """Makes the Arrow columns of one shard after the other, counting rows, batches and shards on from those given.

    `passed` are the columns that the prompts bring.
    """

    def __init__(
        self,
        job: Job,
        schema: pa.Schema,
        passed: Sequence[str],
        *,
        rows: int = 0,
        batches: int = 0,
        shards: int = 0,
    ) -> None:
        self.schema = schema
        self._fit = job.spec.prompts.fit
        self._passed = passed
        self._constant = {
            VARIANT: job.variant,
            "task": job.spec.task,
            "model": job.spec.model,
            "backend": job.spec.backend.kind,
        }
        self.rows = rows
        self.batches = batches
        self.shards = shards

    def build(self, batches: Sequence[Sequence[Request]]) -> pa.RecordBatch:
        """The next shard."""
        requests = [request for batch in batches for request in batch]
        groups, prompts, samples, seeds = zip(*requests, strict=True)
        ids, texts, _, images, masks, passed = zip(*prompts, strict=True)
        count = len(prompts)
        columns: dict[str, Any] = {
            "index": range(self.rows, self.rows + count),
            "request_id": request_ids(requests),
            "prompt_id": ids,
            "sample_index": samples,
            "seed": seeds,
            "batch_id": [self.batches + number for number, batch in enumerate(batches) for _ in batch],
            "batch_slot": [slot for batch in batches for slot in range(len(batch))],
            "batch_size": [len(batch) for batch in batches for _ in batch],
            "prompt": texts,
            "negative_prompt": [_negative(group, prompt) for group, prompt in zip(groups, prompts, strict=True)],
            "input_image": [image and image.url for image in images],
            "mask_image": [mask and mask.url for mask in masks],
            "input_fit": [image and self._fit for image in images],
            "input_width": [image and image.width for image in images],
            "input_height": [image and image.height for image in images],
            "input_sha256": [image and image.sha256 for image in images],
            "mask_sha256": [mask and mask.sha256 for mask in masks],
            **dict(zip(self._passed, zip(*passed, strict=True), strict=True)),
        }
        constant = {**self._constant, "shard": self.shards}
        if all(group is groups[0] for group in groups):
            constant |= groups[0].columns
        else:
            columns |= {name: [group.columns[name] for group in groups] for name in groups[0].columns}
        self.rows += count
        self.batches += len(batches)
        self.shards += 1
        arrays = [
            _repeat(constant[field.name], field.type, count)
            if field.name in constant and field.name not in columns
            else pa.array(columns[field.name], field.type)
            for field in self.schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def request_ids(requests: Sequence[Request]) -> list[str]:
    """The id of each request."""
    return [
        group.ids.id_of(
            prompt.id,
            prompt.text,
            _negative(group, prompt),
            prompt.image.identity if prompt.image else None,
            prompt.mask.identity if prompt.mask else None,
            sample,
            seed,
        )
        for group, prompt, sample, seed in requests
    ]


def _negative(group: Group, prompt: Prompt) -> str | None:
    own: str | None = prompt.params[_NEGATIVE]
    return group.negative_prompt if own is None else own


def _repeat(value: Any, type_: pa.DataType, count: int) -> pa.Array:
    return pa.nulls(count, type_) if value is None else pa.repeat(pa.scalar(value, type_), count)
