"""`models`, `tasks` and `show-model`: what the registry of model cards says; `models add`: a card for another model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abstractvision_batch.cli.command import Command, CommandGroup, JsonOption, RegistryOption, check_choice
from abstractvision_batch.cli.output import format_size, plural, print_json, print_lines, print_notes, print_table

if TYPE_CHECKING:
    from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry
    from abstractvision_batch.registry.backend_facts import BackendFacts
    from abstractvision_batch.registry.model_card import ModelCard, TaskCard
    from abstractvision_batch.registry.param_rule import ParamRule


models_app = typer.Typer(
    cls=CommandGroup,
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@models_app.callback()
def list_models(
    ctx: typer.Context,
    task: Annotated[str | None, typer.Option(help="Only models that can do this task.")] = None,
    backend: Annotated[str | None, typer.Option(help="Only models that this backend runs.")] = None,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models that have a card."""
    if ctx.invoked_subcommand is not None:
        return
    from abstractvision_batch.types import TASKS

    check_choice("--task", task, TASKS)
    if backend is not None:
        from abstractvision_batch.backends.table import list_backends

        check_choice("--backend", backend, sorted(list_backends()))
    registry_api = _open_registry(registry)
    cards = [registry_api.card(model) for model in registry_api.list_models()]
    if task is not None:
        cards = [card for card in cards if registry_api.supports(card.id, task)]
    if backend is not None:
        runs = [(card, card.backends_for(task) if task else tuple(card.backends)) for card in cards]
        cards = [card for card, kinds in runs if backend in kinds]
    if as_json:
        print_json({"models": [_describe_model(card) for card in cards]})
        return
    print_table(
        ("MODEL", "TASKS", "BACKENDS", "LICENCE"),
        [(card.id, " ".join(card.tasks), " ".join(card.backends) or "-", _describe_licence(card)) for card in cards],
    )
    print_lines("", f"{plural(len(cards), 'model')}. `avbatch show-model ID` shows one.")
    if backend is not None and not cards:
        print_notes(f"note: no card names {backend}; a backend whose server brings the models needs none")


@models_app.command("add", cls=Command)
def add(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A folder or file, as ./my-finetune, or an id in the hub cache."),
    ],
    like: Annotated[
        str | None, typer.Option(metavar="ID", help="Write only what differs from the card of this model.")
    ] = None,
    model_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The card's id.  [SOURCE, or its name]", show_default=False)
    ] = None,
    backend: Annotated[str, typer.Option(help="The kind of backend that runs it.")] = "diffusers",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of stdout.")
    ] = None,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a card to edit for a model that has none, by what its files say."""
    from abstractvision_batch.verbs.models_add import describe_model, write_card

    card, text = describe_model(source, like=like, model_id=model_id, kind=backend, registry_paths=registry or ())
    if output is not None:
        write_card(text, output)
    if as_json:
        print_json({"ok": True, "path": None if output is None else str(output), "card": card.to_json()})
    elif output is None:
        print_lines(text.rstrip("\n"))
    else:
        print_lines(f"wrote {output}", f"use it     registry: {{paths: [{output}]}} and model: {card.id} in a spec")


def list_tasks(registry: RegistryOption = None, as_json: JsonOption = False) -> None:
    """List the tasks and how many models can do each."""
    registry_api = _open_registry(registry)
    rows = [
        {
            "task": task,
            "description": registry_api.get_task(task)["description"],
            "models": registry_api.models_for_task(task),
        }
        for task in registry_api.list_tasks()
    ]
    if as_json:
        print_json({"tasks": rows})
        return
    print_table(
        ("TASK", "MODELS", "WHAT IT DOES"), [(row["task"], len(row["models"]), row["description"]) for row in rows]
    )


def show_model(
    model: Annotated[str, typer.Argument(metavar="ID", help="A model's id, as `avbatch models` lists it.")],
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one model's card: parameters, licence, sources."""
    card = _open_registry(registry).card(model)
    if as_json:
        print_json(card.to_json())
        return
    print_lines(card.id, *([f"  {card.notes}"] if card.notes else []), "")
    print_lines(f"provider  {card.provider}", f"licence   {_describe_licence(card)}")
    for kind in card.backends:
        print_lines(*_describe_backend(kind, card.facts(kind)))
    if not card.backends:
        print_lines("backend   none runs this model")
    if card.requires:
        print_lines("requires  " + ", ".join(f"{key} {value}" for key, value in card.requires.items()))
    print_lines(f"card      {card.origin}", *(f"source    {source}" for source in card.sources))
    for name, task in card.tasks.items():
        runners = ", ".join(card.backends_for(name)) or "no backend"
        print_lines("", f"{name}  ({runners})")
        print_table(("PARAMETER", "NEED", "DEFAULT", "ALLOWED", ""), _parameter_rows(task))


def _open_registry(paths: list[str] | None) -> VisionModelCapabilitiesRegistry:
    from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry

    return VisionModelCapabilitiesRegistry(paths=[Path(path) for path in paths or ()])


def _describe_model(card: ModelCard) -> dict[str, Any]:
    return {
        "id": card.id,
        "provider": card.provider,
        "license": card.license,
        "gated": card.gated,
        "tasks": {task: list(card.backends_for(task)) for task in card.tasks},
        "backends": sorted(card.backends),
        "origin": card.origin,
    }


def _describe_licence(card: ModelCard) -> str:
    return f"{card.license} (gated)" if card.gated else card.license


def _describe_backend(kind: str, facts: BackendFacts) -> Iterator[str]:
    parts = [f"{key} {value}" for key in ("dtype", "batch_size") if (value := getattr(facts, key, None)) is not None]
    if facts.memory_bytes is not None:
        parts.append(f"about {format_size(facts.memory_bytes)} of memory")
    yield f"backend   {kind}" + (f": {', '.join(parts)}" if parts else "")
    for task, pipeline in facts.pipelines.items():
        yield f"            {task}: {pipeline}"


def _parameter_rows(task: TaskCard) -> list[tuple[str, str, Any, str, str]]:
    def order(item: tuple[str, ParamRule]) -> tuple[bool, bool]:
        return not item[1].supported, not item[1].required

    return [
        (
            name,
            "unsupported" if not rule.supported else "required" if rule.required else "optional",
            rule.default if rule.const is None else rule.const,
            rule.describe(),
            rule.description,
        )
        for name, rule in sorted(task.params.items(), key=order)
    ]
