"""A line for a crontab, with what cron lacks: whole paths, one run at a time, a log, a time zone.

cron reads a line in its own way before a shell does: the first `%` that has no backslash ends the command, and line
breaks cannot be written at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from abstractvision_batch.emit.emission import (
    FURTHER_STARTS,
    RESTART_S,
    Emission,
    EmittedFile,
    comment_lines,
    object_name,
    shell_words,
)
from abstractvision_batch.errors import SpecError

#: Characters that cron takes of a line.
MAX_LINE = 998


@dataclass(frozen=True, slots=True)
class CrontabOptions:
    """Where things are on the machine."""

    work_dir: Path = Path()
    """Where the job runs: relative paths of its output start there, and its lock and its log are there."""
    bin_dir: Path = Path()
    """Folder of `avbatch`."""
    env_file: Path | None = None
    """A file of `NAME=value` lines with the job's secrets; by default beside the lock."""


def emit_crontab(emission: Emission, options: CrontabOptions) -> list[EmittedFile]:
    """The crontab's lines.

    Raises:
        SpecError: there is no schedule, or the line is not one that cron takes.
    """
    if emission.ticks is None:
        raise SpecError("--cron: is missing, and a crontab is nothing without it (as '0 3 * * *')")
    name = object_name(emission, 200)
    command = _command(emission, options, name)
    line = f"{emission.ticks.cron} {command.replace('%', chr(92) + '%')}"
    if len(line) > MAX_LINE:
        raise SpecError(f"{len(line)} characters are more than the {MAX_LINE} of a crontab's line (use shorter paths)")
    zone = f"CRON_TZ={emission.ticks.timezone}\n"
    return [EmittedFile(f"{name}.crontab", comment_lines(list(_head(emission, options, name))) + zone + line + "\n")]


def _command(emission: Emission, options: CrontabOptions, name: str) -> str:
    """What the shell of cron runs: the lock holds the shell's number, which passes SIGTERM on, and ends with it."""
    work_dir = shell_words([str(options.work_dir.absolute())])
    secrets = f"set -a && . {shell_words([str(_env_file(options, name))])} && set +a && " if emission.secrets else ""
    run = shell_words([str(options.bin_dir.absolute() / "avbatch"), *emission.arguments()])
    lock = f"exec 9>> {name}.lock && flock -n 9 && echo $$ > {name}.lock"
    # 4 (storage, cluster) and 70 (a fault of avbatch) are worth another start; a signal ends the waiting, not the job.
    wait = 'while s=; wait $p; c=$?; [ "$s" ]; do t=1; done'
    again = f'case "$c$t" in 4|70) ;; *) exit $c;; esac; [ $n -lt {FURTHER_STARTS} ] || exit $c; n=$((n+1))'
    loop = f'while :; do {run} & p=$!; {wait}; {again}; sleep {RESTART_S}; [ ! "$s" ] || exit $c; done'
    hear = "n=0 s= t=; trap 's=1; kill $p 2>/dev/null' TERM"
    return f"cd {work_dir} && {secrets}{lock} && {{ {hear}; {loop}; }} >> {name}.log 2>&1"


def _env_file(options: CrontabOptions, name: str) -> Path:
    return (options.env_file or options.work_dir / f"{name}.env").absolute()


def _head(emission: Emission, options: CrontabOptions, name: str) -> Iterator[str]:
    assert emission.ticks is not None
    zone, work_dir = emission.ticks.timezone, options.work_dir.absolute()
    yield f"The job {emission.job.spec.name} for a crontab, made by: {emission.made_by}"
    yield ""
    yield f"  apply   (crontab -l; cat {name}.crontab) | crontab -      or paste these lines in crontab -e"
    yield "  resume  the command of the line, by hand; what earlier times left undone: avbatch backfill"
    yield f"          after exit code 4 or 70 it starts again by itself, {FURTHER_STARTS} times, {RESTART_S} s apart"
    yield f"  stop    cd {work_dir} && {{ flock -n {name}.lock true || kill $(cat {name}.lock); }}"
    yield f"          running shards finish, within {emission.drain_s} s"
    yield f"  look    {work_dir}/{name}.log"
    if emission.secrets:
        yield ""
        yield f"{_env_file(options, name)} has a line NAME=value for each of {', '.join(emission.secrets)},"
        yield "quoted as a shell reads them; chmod 600 it."
    yield ""
    yield "CRON_TZ holds for every line below it, so these lines come last. Where cron does not know it (Debian's), the"
    yield f"hours are of the machine's clock; the run is that of the latest hour in {zone} all the same, once."
