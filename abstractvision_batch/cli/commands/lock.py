"""`lock`: pin what a spec names from outside of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abstractvision_batch.cli.command import JsonOption, RegistryOption, SetOption, SpecArgument
from abstractvision_batch.cli.output import print_json, print_lines, print_notes
from abstractvision_batch.cli.schedule_options import AtOption, CronOption, TimezoneOption, load_at


def lock(
    spec: SpecArgument,
    overrides: SetOption = None,
    registry: RegistryOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The lock file (SPEC with .lock.json).")
    ] = None,
    at: AtOption = None,
    cron: CronOption = None,
    timezone: TimezoneOption = "UTC",
    as_json: JsonOption = False,
) -> None:
    """Pin the prompts, weights, model card and packages of a job in a file that `run --locked` enforces."""
    from abstractvision_batch.backends.stable_diffusion_cpp.fields import SdcppBackendSpec
    from abstractvision_batch.verbs.lock import lock as write_lock

    loaded = load_at(spec, overrides, registry, at=at, cron=cron, timezone=timezone)
    if isinstance(loaded.spec.backend, SdcppBackendSpec):
        print_notes(f"asks the program {loaded.spec.backend.sd_cli_path} for its version (backend.sd_cli_path)")
    target = write_lock(loaded, output)
    if as_json:
        print_json({"ok": True, "path": str(target)})
    else:
        print_lines(f"locked     {target}", f"enforce    avbatch run {spec} --locked")
