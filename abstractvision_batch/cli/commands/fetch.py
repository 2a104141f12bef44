"""`fetch`: bring what a model or a spec needs from the hub, before a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from abstractvision_batch.cli.command import JsonOption, RegistryOption, SetOption
from abstractvision_batch.cli.output import format_size, plural, print_json, print_lines, print_notes, print_table


def fetch(
    target: Annotated[
        str,
        typer.Argument(metavar="MODEL|SPEC", help="A spec (*.yaml), a model's id, a checkpoint, or a repository."),
    ],
    overrides: SetOption = None,
    registry: RegistryOption = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a model.")] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Folder of the hub cache, for a model.")] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="ADDRESS", help="On every node of this Ray cluster, as head:6379."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what there is, and how large.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch the weights of a model, or all that a spec needs from the hub: components and adapters too.

    Sizes are shown first, what is here is not fetched again, and a download that was cut off goes on. A gated model
    is refused with the place where its terms are accepted. On a cluster, each node uses its own token and cache.
    """
    from abstractvision_batch.verbs.fetch import bring, find_parts, settle

    parts = find_parts(
        target,
        overrides=overrides or (),
        registry_paths=registry or (),
        revision=revision,
        cache_dir=None if cache_dir is None else str(cache_dir),
    )
    files = settle(parts)
    if not as_json:
        rows = [
            (one.part, one.repo_id, len(one.names), format_size(one.size_bytes), format_size(one.missing_bytes))
            for one in files
        ]
        if files:
            print_table(("PART", "REPOSITORY", "FILES", "SIZE", "NOT HERE"), rows)
        else:
            print_notes(f"note: {target} needs nothing from the hub")
    found = []
    for one in bring(files, address) if not dry_run else ():
        found.append({"part": one.files.part, "repo_id": one.files.repo_id, "node": one.node, "folder": one.folder})
        if not as_json:
            print_lines(f"fetched    {one.files.repo_id}{f' on {one.node}' if one.node else ''} → {one.folder}")
    if as_json:
        print_json({"ok": True, "parts": [asdict(one) for one in files], "fetched": found})
    elif dry_run:
        missing = sum(one.missing_bytes for one in files)
        print_lines(f"{plural(len(files), 'part')}, {format_size(missing)} to fetch; nothing was fetched")
