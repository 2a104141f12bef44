"""What of a job its server would ignore, by the field of the spec that asks for it.

A server drops what it does not read, and the manifest would name values that made nothing. What nobody asked for, such
as a card's default, is left out and noted in the row instead (`not_sent`).

Not covered: requests of the library, which the backend refuses (`speech`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from abstractvision_batch.backends.openai_compatible.dialects import (
    CALL_EXTRAS,
    EXTENSIONS,
    Dialect,
    Endpoint,
    known_dialect,
)
from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.job.backend_section import Problem
from abstractvision_batch.job.param_names import extra_key, is_other
from abstractvision_batch.job.points import find_axes

if TYPE_CHECKING:
    from abstractvision_batch.backends.openai_compatible.fields import OpenAIBackendSpec
    from abstractvision_batch.job.model import JobSpec


def dialect_of(own: OpenAIBackendSpec, spec: JobSpec) -> Dialect | None:
    """The dialect that a job names or that follows from its host and model; None where its server has to be asked."""
    if own.request_shape is not None:
        return None  # what a request shape left out was left out without a word
    return known_dialect(
        base_url=own.base_url, model=own.served_model or spec.model, dialect=own.dialect, request_shape=None
    )


def unread_parameters(own: OpenAIBackendSpec, spec: JobSpec, dialect: Dialect) -> Iterator[Problem]:
    """What `params`, `matrix` and `zip` ask for that the job's server would ignore, refuse or cut down."""
    endpoint = _endpoint(own, spec, dialect)
    if endpoint is None:
        return
    params = spec.params
    asked: list[tuple[FieldPath, str, list[Any]]] = [
        (("params", name), name, [getattr(params, name)])
        for name in type(params).model_fields
        # a seed for a model that has none is the card's to refuse, and is noted in the row
        if name != "extra" and params.asks_for(name) and not (name == "seed" and dialect.lenient)
    ]
    asked += [
        ((where, name), name, values)
        for where in ("matrix", "zip")
        for name, values in getattr(spec, where).items()
        if not is_other(name)
    ]
    for path, name, values in asked:
        if not _reads(own, endpoint, name):
            yield path, ignored(dialect, spec.task, name)
        else:
            beyond = (beyond_limits(endpoint, dialect, name, value) for value in values)
            yield from ((path, said) for said in list(filter(None, beyond))[:1])
    if endpoint.extra is not None:
        known = {*endpoint.extra, *CALL_EXTRAS, *own.known_fields}
        extra: dict[FieldPath, str] = {("params", "extra", name): name for name in params.extra}
        extra |= {("prompts", "fields", name): name for name in spec.prompts.fields.others}
        extra |= {path: name for name, path in find_axes(spec).items() if is_other(name)}
        for path, name in extra.items():
            if (key := extra_key(name)) not in known:
                yield path, unread_extra(dialect, key, known)


def unread_columns(own: OpenAIBackendSpec, spec: JobSpec, dialect: Dialect, fields: Iterable[str]) -> Iterator[Problem]:
    """Fields that rows set for themselves and the job's server would ignore."""
    endpoint = _endpoint(own, spec, dialect)
    if endpoint is None:
        return
    for name in fields:
        asked = name in (*EXTENSIONS, "width", "height", "mask") and not (dialect.lenient and name == "seed")
        if asked and not _reads(own, endpoint, name):
            yield ("prompts", "fields", name), ignored(dialect, spec.task, name)


def ignored(dialect: Dialect, task: str, name: str) -> str:
    """The complaint about a parameter that the server would drop."""
    if dialect.name == "localai" and name == "guidance_scale":
        mend = "; the model's own configuration has cfg_scale"
    else:
        mend = f", or say which field of yours reads it: backend.field_names.{name}" if name in EXTENSIONS else ""
    return f"{dialect.title} ignores {name} in {task} (leave it out{mend})"


def beyond_limits(endpoint: Endpoint, dialect: Dialect, name: str, value: Any) -> str | None:
    """The complaint about a value that the server would refuse or cut down; None if there is nothing wrong with it."""
    if value is None or name not in endpoint.limits:
        return None
    least, largest = endpoint.limits[name]
    return None if least <= value <= largest else f"{value} where {dialect.title} takes {least:.15g} to {largest:.15g}"


def unread_extra(dialect: Dialect, name: str, known: Iterable[str]) -> str:
    """The complaint about a field of `extra` that the server would drop."""
    listed = ", ".join(sorted(set(known) - CALL_EXTRAS)) or "none"
    return (
        f"{dialect.title} ignores it, as far as is known (it reads: {listed}; "
        f"if yours reads it: backend.known_fields: [{name}])"
    )


def _reads(own: OpenAIBackendSpec, endpoint: Endpoint, name: str) -> bool:
    return name in own.field_names or endpoint.reads(name)


def _endpoint(own: OpenAIBackendSpec, spec: JobSpec, dialect: Dialect) -> Endpoint | None:
    """What serves the job; None for a path of the user's own, of which nothing is known."""
    path = {"text_to_video": own.text_to_video_path, "image_to_video": own.image_to_video_path}.get(spec.task)
    by_job = own.video_mode == "videos_api"
    return None if path is not None and not by_job else dialect.endpoint(spec.task, job=by_job)
