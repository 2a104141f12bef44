"""A workflow for GitHub Actions: checkout, Python, the package, the run.

A runner keeps nothing, so the output is a URL. It has a time limit, and a job that GitHub cancels gets ten seconds:
therefore the run is told to stop in time before, and running the workflow again resumes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from abstractvision_batch.emit.emission import (
    FURTHER_STARTS,
    RESTART_S,
    Emission,
    EmittedFile,
    comment_lines,
    object_name,
    shell_words,
)
from abstractvision_batch.emit.needs import collect_files, needed_packages, require_output_elsewhere
from abstractvision_batch.emit.ticks import minutes_apart
from abstractvision_batch.emit.yaml_text import Note, write_yaml
from abstractvision_batch.errors import SpecError
from abstractvision_batch.execute.executor_choice import uses_gpu

#: Minutes of a job that are not the run's: checkout, Python, packages.
SET_UP_MINUTES = 10
#: GitHub's own limit on a hosted runner is 360.
DEFAULT_MINUTES = 350
_LEAST_MINUTES_APART = 5


@dataclass(frozen=True, slots=True)
class GithubOptions:
    """What a workflow says beside the job."""

    runs_on: str = "ubuntu-latest"
    timeout_minutes: int = DEFAULT_MINUTES
    install: str | None = None
    """What pip installs; by default the package with the extras that the spec needs."""
    python_version: str = "3.11"


def emit_github_actions(emission: Emission, options: GithubOptions) -> list[EmittedFile]:
    """The workflow.

    Raises:
        SpecError: the output or a file is not one that a runner reaches, or GitHub would not take the workflow.
    """
    name = object_name(emission, 100)
    least = SET_UP_MINUTES + emission.grace_s // 60 + 2
    if options.timeout_minutes < least:
        raise SpecError(f"--timeout-minutes: {options.timeout_minutes} leaves the run no time (at least {least})")
    if emission.ticks is not None and minutes_apart(emission.ticks) < _LEAST_MINUTES_APART:
        raise SpecError(f"--cron: {emission.ticks.cron!r} is more often than the every 5 minutes of GitHub")
    for secret in emission.secrets:
        if secret.upper().startswith("GITHUB_"):
            raise SpecError(f"{secret}: GitHub has no secrets that begin with GITHUB_ (name the variable otherwise)")
    require_output_elsewhere(emission.job, "a runner keeps nothing")
    root = _repository(emission.spec_path)
    text = write_yaml(_workflow(emission, options, name, root))
    return [EmittedFile(f"{name}.yml", comment_lines(list(_head(emission, options, name, root))) + text)]


def _workflow(emission: Emission, options: GithubOptions, name: str, root: Path) -> dict[str, Any]:
    started: dict[str | Note, Any] = {"workflow_dispatch": {}}
    if emission.ticks is not None:
        when = {"cron": emission.ticks.cron, "timezone": emission.ticks.timezone}
        started = {Note("Some minutes late, as GitHub gets to it: the run is of the latest time that is due."): None}
        started |= {"schedule": [when], "workflow_dispatch": {}}
    job: dict[str | Note, Any] = {
        "runs-on": options.runs_on,
        "timeout-minutes": options.timeout_minutes,
        "steps": _steps(emission, options, name, root),
    }
    return {
        "name": f"avbatch {emission.job.spec.name}",
        "on": started,
        "permissions": {"contents": "read"},
        Note("One at a time; what is started meanwhile waits."): None,
        "concurrency": {"group": name, "cancel-in-progress": False},
        "jobs": {"run": job},
    }


def _steps(emission: Emission, options: GithubOptions, name: str, root: Path) -> list[dict[str | Note, Any]]:
    install = options.install or _default_install(emission)
    limit_s = (options.timeout_minutes - SET_UP_MINUTES) * 60 - emission.grace_s
    python: dict[str, Any] = {"python-version": options.python_version, "cache": "pip"}
    python["cache-dependency-path"] = f".github/workflows/{name}.yml"
    command = shell_words(["avbatch", *emission.arguments(*_inside(emission, root))])
    run: dict[str | Note, Any] = {
        "name": "Run, or resume",
        Note("It is told to stop in time to commit what runs; running the workflow again resumes it."): None,
        Note(
            "After 4 (storage, cluster) and 70 (a fault of avbatch) it starts again; after 1, 2 and 3 it does not."
        ): None,
        "run": _loop(_literal(command), limit_s),
    }
    if emission.secrets:
        run["env"] = {secret: f"${{{{ secrets.{secret} }}}}" for secret in emission.secrets}
    steps: list[dict[str | Note, Any]] = [
        {"uses": "actions/checkout@v5"},
        {"uses": "actions/setup-python@v6", "with": python},
    ]
    if any(spec.backend.downloads for spec in emission.job.specs):
        steps.append({"uses": "actions/cache@v4", "with": {"path": "~/.cache/huggingface", "key": f"{name}-weights"}})
    steps.append({"name": "Install", "run": _literal(shell_words(["pip", "install", *install.split()]))})
    return [*steps, run]


def _loop(command: str, limit_s: int) -> str:
    """A script that runs the command, within a limit in all, until it ends in a way that another start would repeat."""
    return f"""\
for further in $(seq {FURTHER_STARTS} -1 0); do
  code=0
  timeout --foreground --preserve-status "$(({limit_s} - SECONDS))s" {command} || code=$?
  [[ $code =~ ^(4|70)$ && $further -gt 0 && $((SECONDS + 2 * {RESTART_S})) -lt {limit_s} ]] || break
  echo "exit code $code: again in {RESTART_S} s"
  sleep {RESTART_S}
done
exit "$code"
"""


def _head(emission: Emission, options: GithubOptions, name: str, root: Path) -> Iterator[str]:
    workflow = f"{name}.yml"
    yield f"The job {emission.job.spec.name} as a workflow of GitHub Actions, made by: {emission.made_by}"
    yield ""
    yield f"  apply   put it into .github/workflows/ of the repository that has {_inside(emission, root)[0]}"
    yield f"  start   gh workflow run {workflow}"
    yield f"  resume  gh workflow run {workflow}      (the same: what is done is not generated again)"
    yield "  stop    gh run cancel RUN      (what runs is lost and generated again; what is committed stays)"
    yield f"  look    gh run list --workflow {workflow}"
    if emission.secrets:
        yield ""
        yield "Its secrets, once for the repository:"
        yield from (f"  gh secret set {secret}" for secret in emission.secrets)
    if uses_gpu(emission.job.spec) and options.runs_on == "ubuntu-latest":
        yield ""
        yield "GitHub's own runners have no GPU: it generates on the CPU. --runs-on names a runner that has one."
    yield ""


def _default_install(emission: Emission) -> str:
    return " ".join(needed_packages(emission.job))


def _repository(spec: Path) -> Path:
    """The git repository that the spec lies in, else its folder."""
    return next((folder for folder in spec.parents if (folder / ".git").exists()), spec.parent)


def _inside(emission: Emission, root: Path) -> tuple[str, list[str], list[str]]:
    """The spec and each `--registry` as paths of the repository, and `--set` of what is not there as it is here.

    Raises:
        SpecError: a file of the job lies outside of it.
    """
    files = collect_files(emission.job)
    lowest = emission.spec_path.parents[len(PurePosixPath(files.spec).parts) - 1]
    if not lowest.is_relative_to(root):
        raise SpecError(f"{lowest}: has files of the job, and lies outside of the repository {root} that a runner has")
    folder = lowest.relative_to(root)
    return (folder / files.spec).as_posix(), [(folder / path).as_posix() for path in files.registry], [*files.overrides]


def _literal(text: str) -> str:
    """Text that GitHub leaves as it is.

    Raises:
        SpecError: it has the beginning of an expression.
    """
    if "${{" in text:
        raise SpecError(f"{text[:80]!r} has ${{{{, which GitHub takes for an expression of its own")
    return text
