"""A service for systemd that runs the job, and a timer that starts it.

The service ends with the run: what repeats it is the timer, whose `Persistent=true` makes up for a time when the
machine was off. A run that was killed or that lost its storage is started again; one that ended otherwise is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from abstractvision_batch.emit.emission import Emission, EmittedFile, comment_lines, object_name
from abstractvision_batch.emit.ticks import on_calendar
from abstractvision_batch.errors import SpecError


@dataclass(frozen=True, slots=True)
class SystemdOptions:
    """Where things are on the machine, and whose units they are."""

    work_dir: Path = Path()
    """Where the job runs: relative paths of its output start there."""
    bin_dir: Path = Path()
    """Folder of `avbatch`."""
    env_file: Path | None = None
    """A file of `NAME=value` lines with the job's secrets; by default in `work_dir`."""
    system: bool = False
    """Units of the machine, in place of a user's own."""
    user: str | None = None
    """Whom a unit of the machine runs as; by default root."""


def emit_systemd(emission: Emission, options: SystemdOptions) -> list[EmittedFile]:
    """The service, and with a schedule its timer.

    Raises:
        SpecError: a path or word cannot be written in a unit.
    """
    if options.user is not None and not options.system:
        raise SpecError("--user-name: is of --system; a user's own units run as the user")
    if options.user is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", options.user):
        raise SpecError(f"--user-name: {options.user[:80]!r} is no user's name")
    name = object_name(emission, 200)
    head = comment_lines(list(_head(emission, options, name)))
    files = [EmittedFile(f"{name}.service", head + "\n" + _service(emission, options, name))]
    if emission.ticks is not None:
        files.append(EmittedFile(f"{name}.timer", head + "\n" + _timer(emission, on_calendar(emission.ticks), name)))
    return files


def _service(emission: Emission, options: SystemdOptions, name: str) -> str:
    program = str(options.bin_dir.absolute() / "avbatch")
    lines = [
        "[Unit]",
        f"Description=avbatch job {emission.job.spec.name}",
        *([] if not options.system else ["Wants=network-online.target", "After=network-online.target"]),
        "# Ten starts in six hours without an end to the run are a person's business.",
        "StartLimitIntervalSec=6h",
        "StartLimitBurst=10",
        "",
        "[Service]",
        "Type=oneshot",
        *([f"User={options.user}"] if options.user is not None else []),
        f"WorkingDirectory={_path(options.work_dir.absolute())}",
        *([f"EnvironmentFile={_path(_env_file(options, name))}"] if emission.secrets else []),
        f"ExecStart={_command(program, emission.arguments())}",
        "TimeoutStartSec=infinity",
        "# SIGTERM goes to the driver alone, which lets its workers finish what they have begun.",
        "KillMode=mixed",
        "KillSignal=SIGTERM",
        f"TimeoutStopSec={emission.grace_s}",
        "# 130: it was stopped, and resumes when it is next started.",
        "SuccessExitStatus=130",
        "# 1: rows failed; 2: the spec is wrong; 3: something is missing. Each would end the same way again.",
        "# 4 (storage, cluster), 70 (a fault of avbatch) and a kill: it is started again, and resumes.",
        "Restart=on-failure",
        "RestartPreventExitStatus=1 2 3",
        "RestartSec=60",
    ]
    if emission.ticks is None:
        lines += ["", "[Install]", "# Enabled, it resumes after a restart of the machine.", "WantedBy=default.target"]
    return "\n".join(lines) + "\n"


def _timer(emission: Emission, calendar: list[str], name: str) -> str:
    assert emission.ticks is not None
    return "\n".join(
        [
            "[Unit]",
            f"Description=When avbatch job {emission.job.spec.name} is due",
            "",
            "[Timer]",
            f"# {emission.ticks.cron} ({emission.ticks.timezone})",
            *(f"OnCalendar={when}" for when in calendar),
            "# What was missed while the machine was off is made up for, once.",
            "Persistent=true",
            "AccuracySec=1s",
            f"Unit={name}.service",
            "",
            "[Install]",
            "WantedBy=timers.target",
            "",
        ]
    )


def _env_file(options: SystemdOptions, name: str) -> Path:
    return (options.env_file or options.work_dir / f"{name}.env").absolute()


def _head(emission: Emission, options: SystemdOptions, name: str) -> Iterator[str]:
    control = "systemctl" if options.system else "systemctl --user"
    folder = "/etc/systemd/system" if options.system else "~/.config/systemd/user"
    scheduled = emission.ticks is not None
    unit = f"{name}.timer" if scheduled else f"{name}.service"
    yield f"The job {emission.job.spec.name} for systemd, made by: {emission.made_by}"
    yield ""
    yield f"  apply   put {name}.service{f' and {name}.timer' if scheduled else ''} into {folder}, then"
    yield f"          {control} daemon-reload && {control} enable --now {unit}"
    if not options.system:
        yield "          loginctl enable-linger      (else it runs only while you are logged in)"
    yield f"  resume  {control} start {name}.service"
    yield f"  stop    {control} stop {name}.service      running shards finish, within {emission.drain_s} s"
    yield f"  look    journalctl {'' if options.system else '--user '}-u {name}.service"
    if emission.secrets:
        yield ""
        yield f"{_env_file(options, name)} has a line NAME=value for each of {', '.join(emission.secrets)};"
        yield "chmod 600 it."


def _command(program: str, words: list[str]) -> str:
    """The value of ExecStart: systemd reads `%` even in quotes, and `$` too but in the program's path."""
    _require_plain(program)
    return " ".join([_word(program), *(_word(word).replace("$", "$$") for word in words)])


def _word(word: str) -> str:
    _require_printable(word)
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return escaped if re.fullmatch(r"[A-Za-z0-9_./=:,@%+-]+", word) else f'"{escaped}"'


def _path(path: Path) -> str:
    """A path as a setting's whole value, which takes no quotes."""
    text = str(path)
    _require_plain(text)
    return text.replace("%", "%%")


def _require_plain(path: str) -> None:
    """Refuse what systemd takes in no path."""
    _require_printable(path)
    if path != path.strip() or any(mark in path for mark in "\\\"'"):
        raise SpecError(f"{path[:200]!r} has quotes, backslashes or blanks at its end, which a unit cannot write")


def _require_printable(text: str) -> None:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise SpecError(f"{text[:80]!r} has a line break or control character, which a unit cannot write")
