"""`provider-models`: what a server offers. Listing chooses nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abstractvision_batch.cli.command import JsonOption, check_choice
from abstractvision_batch.cli.output import plural, print_json, print_lines, print_table
from abstractvision_batch.errors import BackendBusyError, DependencyError

if TYPE_CHECKING:
    from abstractvision_batch.types import ProviderModelInfo


def provider_models(
    openai: Annotated[bool, typer.Option("--openai", help="OpenAI's own server.")] = False,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="The server's /v1-style root.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable that holds the server's key.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Only models that do this task, as far as the server says.")] = None,
    timeout_s: Annotated[float, typer.Option(min=0.001, help="Seconds for the whole request.")] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """List the models of a server that speaks OpenAI's API.

    Without an option it is the server of ABSTRACTVISION_BASE_URL or OPENAI_BASE_URL.
    """
    from abstractvision_batch.backends.from_environment import OPENAI_URL
    from abstractvision_batch.types import TASKS

    check_choice("--task", task, TASKS)
    if openai and base_url is not None and base_url.rstrip("/") != OPENAI_URL:
        raise typer.BadParameter("one server at a time (leave out --openai or --base-url)", param_hint="--openai")
    fields: dict[str, Any] = {
        "base_url": OPENAI_URL if openai else base_url,
        "api_key": None if api_key_env is None else {"env": api_key_env},
        "timeout_s": timeout_s,
        "retries": 1,
    }
    found = list_server_models(fields, os.environ, task)
    if as_json:
        print_json({"ok": True, "models": [asdict(model) for model in found]})
        return
    print_table(*describe_models(found))
    print_lines("", plural(len(found), "model"))


def list_server_models(
    fields: Mapping[str, Any], environ: Mapping[str, str], task: str | None
) -> list[ProviderModelInfo]:
    """Ask a server for its models.

    Args:
        fields: of an `openai` backend section; what is None or absent the environment says.
        environ: the process's environment.
        task: only models that do it; None: all.

    Raises:
        DependencyError: the server cannot be reached, does not answer or refuses the key.
    """
    from abstractvision_batch.backends.from_environment import choose_target
    from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry
    from abstractvision_batch.verbs.generate import open_manager

    cards = VisionModelCapabilitiesRegistry()
    manager = open_manager(choose_target(cards, environ, kind="openai", fields=fields), cards)
    assert manager.backend is not None
    with manager.backend:
        try:
            return manager.list_provider_models(task=task)
        except BackendBusyError as error:
            raise DependencyError(str(error)) from error


def describe_models(
    models: Iterable[ProviderModelInfo],
) -> tuple[tuple[str, ...], list[tuple[str | None, ...]]]:
    """Return the head and the rows of a table of models."""
    rows = [(model.id, model.owned_by, " ".join(model.capabilities)) for model in models]
    return ("MODEL", "OWNER", "CAPABILITIES"), [*rows]
