"""The JSON Schema of a job spec, with which an editor completes and checks one.

``python -m abstractvision_batch.job.schema`` writes the file that is shipped. Not covered: model cards; a spec that
the schema accepts may still ask for what its model does not do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import Field, create_model

from abstractvision_batch.backends.table import BACKENDS, load_section_class
from abstractvision_batch.documents.by_kind import TAG
from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.job.backend_section import BackendSection
from abstractvision_batch.job.marks import Timed
from abstractvision_batch.job.model import DEFAULT_BACKEND, JobSpec
from abstractvision_batch.job.param_names import OTHER_PATTERN, STANDARD
from abstractvision_batch.job.variants import VARIANT_FIELDS
from abstractvision_batch.job.walk import leaves

_OTHER = f"^({OTHER_PATTERN})$"
SCHEMA_FILE = Path(__file__).parents[1] / "avbatch.schema.json"


def json_schema(kinds: Iterable[str] = BACKENDS) -> dict[str, Any]:
    """The schema (JSON Schema 2020-12) generated from the models, with the sections of these backends."""
    sections = tuple(_of_one_kind(load_section_class(kind), kind) for kind in sorted(kinds))
    backend: Any = Annotated[Union[sections], Field(discriminator=TAG)]  # noqa: UP007 - of a tuple
    spec = create_model("JobSpec", __base__=JobSpec, __doc__=JobSpec.__doc__, backend=(backend, DEFAULT_BACKEND))
    schema = spec.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        for field in part.get("properties", {}).values():
            discriminator = field.get("discriminator")
            if discriminator is not None:
                _require_discriminator(schema, discriminator)
    for name in ("matrix", "zip"):
        schema["properties"][name]["propertyNames"] = {"anyOf": [{"enum": list(STANDARD)}, {"pattern": _OTHER}]}
    for part in (schema["$defs"]["Fields"], schema["$defs"]["DrawSpec"]):
        part["patternProperties"] = {_OTHER: part["additionalProperties"]}
        part["additionalProperties"] = False
    variants = schema["properties"]["variants"]
    variants["patternProperties"] = dict.fromkeys(variants["patternProperties"], _variant_schema(schema))
    variants["additionalProperties"] = False
    for leaf in leaves(JobSpec):
        if leaf.mark(Timed) is not None:
            _accept_time_fields(schema, leaf.path)
    _leave_to_base(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "patternProperties": {"^x-": {"description": "A place for anchors."}},
        "title": "avbatch job spec",
    }


def _variant_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return what a variant may say: of the job's own fields, those that it may override, or null."""
    definitions = schema["$defs"]

    def partly(section: str, fields: Iterable[str]) -> dict[str, Any]:
        own = definitions[schema["properties"][section]["$ref"].rpartition("/")[2]]["properties"]
        return _mapping({name: own[name] for name in fields})

    fields = {
        name: {"type": "object"}
        if name == "backend"
        else partly(name, own)
        if own
        else _bare(schema["properties"][name])
        for name, own in VARIANT_FIELDS.items()
    }
    return _mapping({name: {"anyOf": [field, {"type": "null"}]} for name, field in fields.items()})


def _bare(field: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in field.items() if key not in ("default", "description", "title")}


def _mapping(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _of_one_kind(section: type[BackendSection], kind: str) -> type[BackendSection]:
    """Return a section's class whose `kind` can only be this."""
    if section.model_fields[TAG].annotation is not str:
        return section
    only: Any = Literal[kind]
    return create_model(section.__name__, __base__=section, __doc__=section.__doc__, kind=(only, kind))


def schema_text(kinds: Iterable[str] = BACKENDS) -> str:
    """The schema as text; by default the shipped file's content."""
    return json.dumps(json_schema(kinds), indent=2, ensure_ascii=False) + "\n"


def _accept_time_fields(schema: dict[str, Any], path: FieldPath) -> None:
    """Where a field takes numbers, or text of a pattern, it takes text with time fields as well."""
    parent = schema if len(path) == 1 else schema["$defs"][schema["properties"][path[0]]["$ref"].rpartition("/")[2]]
    field = parent["properties"][path[-1]]
    types = field.get("anyOf", [field])
    if any(kind.get("type") == "string" and "pattern" not in kind for kind in types):
        return
    about = {name: field.pop(name) for name in ("title", "description", "default") if name in field}
    own = field.pop("anyOf", None) or [dict(field)]
    field.clear()
    field.update({"anyOf": [*own, {"type": "string", "pattern": r"\{\{.*\}\}"}], **about})


def _leave_to_base(schema: dict[str, Any]) -> None:
    """Require what a spec must have of those that extend none."""
    whole: dict[str, Any] = {"required": schema.pop("required"), "properties": {}}
    for section in whole["required"]:
        reference = schema["properties"][section].get("$ref", "")
        part = schema["$defs"].get(reference.rpartition("/")[2], {})
        if "required" in part:
            whole["properties"][section] = {"required": part.pop("required")}
    schema |= {"if": {"required": ["extends"]}, "else": whole}


def _require_discriminator(schema: dict[str, Any], discriminator: dict[str, Any]) -> None:
    """It has a default for Python, but a spec that writes the mapping must say which one it means."""
    name = discriminator["propertyName"]
    for reference in discriminator["mapping"].values():
        variant = schema["$defs"][reference.removeprefix("#/$defs/")]
        variant["required"] = [name, *variant.get("required", [])]


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
