"""`repl`: a backend tried by hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from abstractvision_batch.cli.command import RegistryOption


def repl(
    model: Annotated[str | None, typer.Option(help="What to begin with.  [avbatch/shapes64]")] = None,
    backend: Annotated[str | None, typer.Option(metavar="KIND", help="By default what runs the model.")] = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="The server of backend openai.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable that holds the server's key.")
    ] = None,
    store: Annotated[str | None, typer.Option(metavar="DIR", help="Asset store: a folder, a URL or default.")] = None,
    registry: RegistryOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line that is read.")] = False,
) -> None:
    """Try a backend by hand: prompts and /commands, from the terminal or a pipe.

    The model stays loaded between prompts. /help lists what there is.
    """
    from abstractvision_batch.backends.from_environment import choose_target
    from abstractvision_batch.cli.commands.generate import step_printer
    from abstractvision_batch.cli.repl.loop import run_loop
    from abstractvision_batch.cli.repl.session import Session
    from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry

    cards = VisionModelCapabilitiesRegistry(paths=[Path(path) for path in registry or ()])
    fields = {"base_url": base_url, "api_key": None if api_key_env is None else {"env": api_key_env}}
    target = choose_target(cards, os.environ, kind=backend, model=model, fields=fields)
    run_loop(Session(os.environ, target, cards, store=store, on_step=step_printer()), as_json=as_json)
