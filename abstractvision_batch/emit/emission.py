"""What every target is made from: the job, when it is due, and the command that runs it; and what an emission is."""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from abstractvision_batch.emit.ticks import Ticks
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.env import restate_variables
from abstractvision_batch.job.load import GivenSpec, Job, read_values
from abstractvision_batch.text.redaction import find_key, gives_access

#: Seconds that a job has to finish and commit running shards when it is stopped, where its spec does not say.
DRAIN_S = 90
#: Seconds more before it is killed: what it takes to cancel what still runs, and to say how to resume.
MARGIN_S = 30
#: Further starts of a run that ended with 4 or 70, where the scheduler itself makes none; and seconds before each.
FURTHER_STARTS = 3
RESTART_S = 60
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class EmittedFile:
    """One file that was made."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Emission:
    """A job that is to be emitted, whatever for.

    A scheduler stops a job with SIGTERM and kills it a while later, so that the emitted command always has a time limit
    for draining, and the scheduler waits longer than that.
    """

    job: Job
    ticks: Ticks | None = None
    secrets: tuple[str, ...] = ()
    """Variables with secrets beside those that the spec names, such as a cloud's credentials."""
    name: str | None = None
    """Of what is made; by default from the spec's."""
    made_by: str = "avbatch emit"
    """The command line, for the head of what is made."""

    @property
    def drain_s(self) -> int:
        """Seconds that the job has to drain."""
        return math.ceil(self.job.spec.execution.drain_timeout_s or DRAIN_S)

    @property
    def grace_s(self) -> int:
        """Seconds from the signal that stops the job until it may be killed."""
        return self.drain_s + MARGIN_S

    def arguments(
        self, spec: str | None = None, registry: Sequence[str] | None = None, overrides: Sequence[str] | None = None
    ) -> list[str]:
        """Words of the command that runs the job, after the program.

        Args:
            spec: Where the spec lies there; by default where it lies here.
            registry: The same of each `--registry`.
            overrides: `--set` of what is not there as it is here; by default of what variables say here.
        """
        given = self.job.given
        if overrides is None:
            overrides = restate_variables(read_values(given).data)
        if self.job.spec.execution.drain_timeout_s is None:
            overrides = [*overrides, f"execution.drain_timeout_s={self.drain_s}"]
        there = GivenSpec(
            self.spec_path if spec is None else spec,
            (*given.overrides, *overrides),
            tuple(str(Path(path).absolute()) for path in given.registry_paths) if registry is None else tuple(registry),
            given.scheduled_at if self.ticks is None else None,
        )
        timed = [] if self.ticks is None else ["--cron", self.ticks.cron, "--timezone", self.ticks.timezone]
        return there.argv() + timed

    @property
    def spec_path(self) -> Path:
        """The spec's file."""
        return self.job.given.file.absolute()


def object_name(emission: Emission, limit: int) -> str:
    """A name for what is made, of lower-case letters, digits and dashes, from the spec's name or as it was given.

    Args:
        emission: The job.
        limit: Characters that it may have; a longer one is cut and gets a hash, so that two jobs stay two.

    Raises:
        SpecError: the name that was given is not of that form, or longer.
    """
    if emission.name is not None:
        if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", emission.name) or len(emission.name) > limit:
            raise SpecError(
                f"--name: {emission.name[:80]!r} is no name here (up to {limit} lower-case letters, digits and dashes, "
                "a letter first and no dash last)"
            )
        return emission.name
    given = emission.job.spec.name
    name = f"avbatch-{re.sub(r'[^a-z0-9]+', '-', given.lower())}".strip("-")
    if len(name) <= limit:
        return name
    return f"{name[: limit - 7].strip('-')}-{hashlib.sha256(given.encode()).hexdigest()[:6]}"


def require_variables(option: str, names: Sequence[str]) -> None:
    """Refuse what is no name of an environment variable.

    Raises:
        SpecError: the first one that is none.
    """
    for name in names:
        if not _VARIABLE.fullmatch(name):
            raise SpecError(f"{option}: {name[:80]!r} is no variable's name (letters, digits and underscores)")


def require_harmless(overrides: Sequence[str]) -> None:
    """Refuse an override with a secret, which would stand in what is made.

    Raises:
        SpecError: the first one that has one.
    """
    for override in overrides:
        field, _, value = override.partition("=")
        if gives_access(value.strip("'\" ")) or find_key(value) is not None:
            raise SpecError(
                f"--set {field}: its value holds a secret, and would be in what is made of the job "
                f"(put it into a variable: {field}=${{NAME}})"
            )


def shell_words(words: Sequence[str]) -> str:
    """Words quoted for a POSIX shell, on one line.

    Raises:
        SpecError: a word has a line break or another control character.
    """
    for word in words:
        if any(ord(character) < 32 or ord(character) == 127 for character in word):
            raise SpecError(f"{word[:80]!r} has a line break or control character (rename it, or write it in the spec)")
    return shlex.join(words)


def comment_lines(lines: Sequence[str], mark: str = "#") -> str:
    """Lines of a comment; what would end the comment's line is shown as a question mark."""
    shown = ("".join(c if c.isprintable() else "?" for c in line) for line in lines)
    return "".join(f"{mark} {line}".rstrip() + "\n" for line in shown)


def write_files(files: Sequence[EmittedFile], output: str, *, into_folder: bool = False) -> list[Path]:
    """Write each file, replacing those of an earlier emission; the paths.

    Args:
        files: What was made.
        output: The file, or a folder: one that is there, or that ends in a slash.
        into_folder: Whether it is a folder in any case.

    Raises:
        SpecError: they cannot be written there.
    """
    folder = into_folder or output.endswith("/") or Path(output).is_dir()
    paths = [Path(output) / file.name if folder else Path(output) for file in files]
    try:
        for path, file in zip(paths, files, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"--output: {output}: cannot be written: {error.strerror or error}") from error
    return paths
