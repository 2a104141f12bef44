"""The README of a run's folder: what a person, and the Hugging Face hub, need to know of the data set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.report.loading import data_files, describe_loading
from abstractvision_batch.report.outcomes import Outcomes
from abstractvision_batch.text.redaction import printable, without_secrets

#: Inline prompts of the spec that the README repeats.
SHOWN_PROMPTS = 20
_SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_HUB_TASKS = {
    "text_to_image": "text-to-image",
    "image_to_image": "image-to-image",
    "text_to_video": "text-to-video",
    "image_to_video": "image-to-video",
    "multi_view_image": "image-to-image",
}


def write_run_readme(
    record: Mapping[str, Any], outcomes: Outcomes, environments: Mapping[str, Mapping[str, Any]]
) -> str:
    """Markdown with the YAML header of a data set card.

    Args:
        record: `RunRecord.data`: the run as it is now.
        outcomes: Counts over the whole manifest.
        environments: What the workers were, by id.
    """
    record = {**record, "spec": without_secrets(record["spec"])}  # an earlier version may have recorded some
    sections = [
        _header(record),
        _introduction(record, outcomes),
        _model(record),
        _failures(outcomes),
        describe_loading(record),
        _spec(record, environments),
    ]
    return "\n".join(section for section in sections if section)


def _header(record: Mapping[str, Any]) -> str:
    requests = record["plan"]["requests"]
    header = {
        "pretty_name": record["name"],
        "task_categories": [_HUB_TASKS[record["spec"]["task"]]],
        "size_categories": [next((name for limit, name in _SIZE_CATEGORIES if requests < limit), "n>1M")],
        "tags": ["synthetic", "avbatch"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": data_files(record["spec"])}]}],
    }
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n"


def _introduction(record: Mapping[str, Any], outcomes: Outcomes) -> str:
    spec, plan = record["spec"], record["plan"]
    description = f"{_plain(spec['description'].strip())}\n\n" if spec.get("description") else ""
    sizes = f"{plan['prompts']:,} prompts × {plan['matrix_points']:,} parameter combinations"
    return f"""# {record["name"]}

{description}![some of the pictures](report/contact-sheet.png)

| | |
|---|---|
| task | `{spec["task"]}` |
| model | {_made_by(record)} |
| requests | {plan["requests"]:,} = {sizes} × {plan["samples_per_prompt"]:,} samples |
| succeeded | {outcomes.succeeded:,} |
| failed | {outcomes.failed:,} |{_superseded(outcomes)}
| started | {record["created_at"]} |{_scheduled(record)}{_extensions(record)}
| fingerprint | `{record["fingerprint"]}` |
"""


def _made_by(record: Mapping[str, Any]) -> str:
    spec = record["spec"]
    own = [(f"{_code(one['name'])}: ", one["model"], one["backend"]) for one in record.get("variants", ())]
    made = own or [("", spec["model"], spec["backend"]["kind"])]
    return "<br>".join(f"{name}{_code(model)} on `{kind}`" for name, model, kind in made)


def _superseded(outcomes: Outcomes) -> str:
    return f"\n| failed, and replaced by others | {outcomes.superseded:,} |" if outcomes.superseded else ""


def _scheduled(record: Mapping[str, Any]) -> str:
    time = record.get("scheduled_at")
    return "" if time is None else f"\n| scheduled | {time} |"


def _extensions(record: Mapping[str, Any]) -> str:
    rows = (f"\n| extended | {one['created_at']}, by {one['requests']:,} requests |" for one in record["extensions"])
    return "".join(rows)


def _model(record: Mapping[str, Any]) -> str:
    cards = {record["card"]["id"]: record["card"], **record.get("cards", {})}.values()
    own = "\n".join(map(_licence, cards))
    which = "that licence says" if len(cards) == 1 else "those licences say"
    return f"""## Model and licence

{own} Whether {which}
something about what the model generates is for you to read; this data set has no licence of its own until you give it
one.
{"".join(f"{chr(10)}- {_plain(source)}" for card in cards for source in card["sources"])}
"""


def _licence(card: Mapping[str, Any]) -> str:
    gated = ", gated" if card["gated"] else ""
    return f"{_code(card['id'])} by {_plain(card['provider'])}, licence {_code(card['license'])}{gated}."


def _failures(outcomes: Outcomes) -> str:
    if not outcomes.failures:
        return ""
    rows = "\n".join(
        f"| {_code(group.error_kind)} | {_cell(group.error_class)} | {group.rows:,} | {_cell(group.error_message)} |"
        for group in outcomes.failures
    )
    return f"""## Failed requests

A failed request is a row like any other, with `status` = `failed`.

| error_kind | error_class | rows | for example |
|---|---|---|---|
{rows}
"""


def _spec(record: Mapping[str, Any], environments: Mapping[str, Mapping[str, Any]]) -> str:
    spec = JobSpec.from_record(record["spec"]).model_dump(mode="json", exclude_defaults=True)
    always = {name: record["spec"][name] for name in ("version", "name", "task", "model")}
    backend = {"backend": {"kind": record["spec"]["backend"]["kind"], **spec.get("backend", {})}}
    shown, note = _shortened({**always, **spec, **backend})
    text = printable(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=110)) + note
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    environment = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    backends = [found["backend"] for found in environments.values()]
    devices = sorted({str(backend.get("device_name") or backend.get("device") or "?") for backend in backends})
    where = " and on ".join(devices) or "?"
    return f"""## How it was made

Generated on {where}; each row's `environment_id` names a file in `environments/` that says more.
avbatch {environment["avbatch"]}, Python {environment["python"]}, {versions}. The spec, without what is at its default:

{fence}yaml
{text}{fence}
"""


def _shortened(spec: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the spec with the first of many inline prompts, and a comment that says how many it leaves out."""
    source = spec["prompts"]["source"]
    if not isinstance(source, list) or len(source) <= SHOWN_PROMPTS:
        return spec, ""
    note = f"# {len(source) - SHOWN_PROMPTS:,} more prompts are in run.json\n"
    return {**spec, "prompts": {**spec["prompts"], "source": source[:SHOWN_PROMPTS]}}, note


def _plain(text: object) -> str:
    """Text of others, which is neither HTML nor makes links and pictures; a bare URL may become a link."""
    text = printable(str(text)).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    return text.replace("[", "\\[").replace("]", "\\]")


def _code(text: object) -> str:
    """A word of others, as code in a table's cell."""
    return f"`{' '.join(printable(str(text)).split()).replace('`', chr(39)).replace('|', '/')}`"


def _cell(text: object) -> str:
    """Text that ends no table cell and makes neither HTML nor links."""
    line = " ".join(str(text).split())
    return _plain(line if len(line) <= 200 else f"{line[:199]}…").replace("|", "\\|")
