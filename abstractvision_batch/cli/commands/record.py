"""`record`: what a run recorded of itself: parameters, weights, where it was started and where it was generated."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from abstractvision_batch.cli.command import JsonOption, StorageOption
from abstractvision_batch.cli.commands.status import RunArgument, open_located_run
from abstractvision_batch.cli.output import format_size, one_line, plural, print_json, print_lines
from abstractvision_batch.cli.spec_options import SpecOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from abstractvision_batch.registry.weights import Weights
    from abstractvision_batch.runs.opened import Run

_SHOWN_DIGITS = 12
#: What of a worker's environment is worth a line, in this order; `--json` has all of it.
_SHOWN_OF_BACKEND = ("device_name", "device", "dtype")


def record(
    path: RunArgument,
    given: SpecOptions,
    storage_options: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a run recorded: parameters, weights, software, machines."""
    from abstractvision_batch.runs.environment_files import read_environments
    from abstractvision_batch.runs.weights import read_weights
    from abstractvision_batch.text.redaction import with_kept_urls

    run = open_located_run(path, storage_options, given)
    weights = {folder: read_weights(run.store, folder) for folder in run.record.model_folders}
    environments, rows = read_environments(run.store), count_by_environment(run)
    if as_json:
        print_json(
            {
                "path": run.url,
                **with_kept_urls(run.record.data),
                **_weights_json(weights),
                "environments": {name: {"rows": rows[name], **found} for name, found in environments.items()},
            }
        )
        return
    of_models = (line for found in weights.values() for line in _describe_weights(found))
    print_lines(*_describe_run(run), *of_models, *_describe_environments(environments, rows))


def _weights_json(weights: Mapping[str, Weights | None]) -> dict[str, Any]:
    """The weights of a run; of one with variants, by the folder that the run has for each model."""
    found = {folder: None if one is None else one.to_json() for folder, one in weights.items()}
    return {"weights": found[""]} if "" in found else {"weights": None, "weights_by_model": found}


def count_by_environment(run: Run) -> Counter[str]:
    """Rows by the environment that they name."""
    from abstractvision_batch.runs.manifest import iter_rows

    counts: Counter[str] = Counter()
    for table in iter_rows(run.store, ["environment_id"]):
        counts.update(name for name in table["environment_id"].to_pylist() if name is not None)
    return counts


def _describe_params(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in params.items() if value not in (None, {}))


def _describe_run(run: Run) -> Iterator[str]:
    data, driver = run.record.data, run.record.data["environment"]
    commit = "no git" if driver["git_commit"] is None else f"git {driver['git_commit'][:_SHOWN_DIGITS]}"
    yield f"{data['name']}  {data['spec']['task']} · {one_line(run.record.made_by, width=200)}"
    yield ""
    yield f"run          {run.url}, started {data['created_at']}"
    if data.get("scheduled_at") is not None:
        zone = f", {data['timezone']}" if data["timezone"] else ""
        yield f"scheduled    {data['scheduled_at']}{zone}"
    yield f"fingerprint  {data['fingerprint']}"
    yield f"plan         {plural(run.plan.requests, 'request')}, batches of up to {run.plan.batch_size}"
    yield f"prompts      {run.plan.prompts_digest[:_SHOWN_DIGITS]}, {plural(run.plan.prompts, 'prompt')}"
    for origin in run.plan.prompts_origins:
        facts = sorted(origin.items(), key=lambda fact: fact[0] not in ("run", "dataset"))
        yield f"             of {', '.join(f'{name} {value}' for name, value in facts if value is not None)}"
    if (chosen := data.get("executor")) is not None:
        yield f"executor     {chosen['executor']} ({chosen['why']})"
    if run.plan.inputs_digest is not None:
        yield f"inputs       {run.plan.inputs_digest[:_SHOWN_DIGITS]}, over the images and masks of all prompts"
    if not run.record.variants:
        yield f"parameters   {_describe_params(data['params'])}"
    for variant in run.record.variants:
        yield f"variant      {variant['name']}: {variant['model']}, {_describe_params(variant['params'])}"
    yield (
        f"started by   avbatch {driver['avbatch']}, Python {driver['python']}, on {driver['host']}, {commit}"
        + (", with uncommitted changes" if driver["git_dirty"] else "")
    )


def _describe_weights(weights: Weights | None) -> Iterator[str]:
    if weights is None:
        return
    yield f"weights      {weights.digest}"
    for part in weights.parts:
        size = format_size(sum(file.size_bytes for file in part.files))
        commit = "" if part.revision is None else f" at {part.revision[:_SHOWN_DIGITS]}"
        yield f"             {part.name}: {part.source}{commit}, {plural(len(part.files), 'file')}, {size}"


def _describe_environments(environments: Mapping[str, Mapping[str, Any]], rows: Counter[str]) -> Iterator[str]:
    """Each environment in a line, and what the others have that the one of the most rows has not."""
    from abstractvision_batch.runs.environment import differing_values

    ordered = sorted(environments, key=lambda name: (-rows[name], name))
    for name in ordered:
        found = environments[name]
        backend = found["backend"]
        words = [str(backend[key]) for key in _SHOWN_OF_BACKEND if backend.get(key)]
        words += [plural(backend["threads"], "thread")] if backend.get("threads") else []
        words += [f"{package} {version}" for package, version in backend.get("versions", {}).items() if version]
        yield f"environment  {name}, {plural(rows[name], 'row')}: {', '.join(words)}"
        if name != ordered[0]:
            for value, there, here in differing_values(environments[ordered[0]], found):
                yield f"             {value}: {there} in {ordered[0]}, {here} here"
