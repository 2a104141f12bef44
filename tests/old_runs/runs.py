"""Where the old runs are, how one is unpacked, and the few names of theirs that tests have to know."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from _pytest.mark.structures import ParameterSet
from typer.main import get_command

from abstractvision_batch import open_run
from abstractvision_batch.cli.app import app

HERE = Path(__file__).parent
VERSIONS = sorted(path.name for path in HERE.glob("v*") if path.is_dir())

#: Columns of a manifest by which these tests know a row, and what became of it.
ID, PIXELS, STATUS, SHARD = "request_id", "pixel_sha256", "status", "shard"
#: What a run writes again once it is whole; every other file of it is written once.
PUBLISHED = ("manifest.parquet", "metadata.parquet", "README.md", "index.json")
PUBLISHED_FOLDERS = ("report", "gallery")

#: What is done on a server, whom a run cannot be trusted to name: only its spec is run.
SERVED = ("server-auto", "server-extended", "server-openai")
#: Makes pictures with a model, on PyTorch.
MODEL = ("shapes64",)


@dataclass(frozen=True)
class Old:
    """One job of an old version; its runs are archives, one for each state that they were left in."""

    version: str
    name: str

    @property
    def folder(self) -> Path:
        return HERE / self.version / self.name

    @cached_property
    def expected(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "expected.json").read_text(encoding="utf-8"))
        return found

    @property
    def states(self) -> list[str]:
        return sorted(path.name.removesuffix(".tar.xz") for path in self.folder.glob("*.tar.xz"))

    @property
    def pixels(self) -> dict[str, str]:
        """Of the whole run, by request."""
        return {request: row[PIXELS] for request, row in self.expected["rows"].items()}

    @property
    def place(self) -> str:
        """Of the run that `expected` is of, in the job's folder."""
        return "runs/2026-11-02" if self.name == "scheduled" else "run"

    @property
    def options(self) -> list[str]:
        """What its spec needs on the command line besides its path."""
        return ["--at", "2026-11-02"] if self.name == "scheduled" else []


OLD = [Old(version, path.name) for version in VERSIONS for path in sorted((HERE / version).iterdir())]

#: Built once: Typer's own test runner builds all commands for each call, which takes longer than most of them run.
COMMAND = get_command(app)

#: Unpacks the runs of one state into a folder of the test, which becomes the current one.
Unpack = Callable[[Old, str], Path]


def each(
    *states: str, only: Collection[str] = (), but: Collection[str] = (), slow_but: Collection[str] = ()
) -> list[ParameterSet]:
    """The old jobs and their states, as parameters; all states where none is named.

    Where `slow_but` is given, jobs of other names repeat what is seen of these, in the slow run.
    """
    return [
        pytest.param(old, state, id=f"{old.version}-{old.name}-{state}", marks=marks(old, slow_but))
        for old in OLD
        for state in old.states
        if (not states or state in states) and (not only or old.name in only) and old.name not in but
    ]


def each_job(only: Collection[str] = ()) -> list[ParameterSet]:
    """The old jobs as parameters."""
    return [pytest.param(old, id=f"{old.version}-{old.name}") for old in OLD if not only or old.name in only]


def marks(old: Old, slow_but: Collection[str] = ()) -> Sequence[pytest.MarkDecorator]:
    model = [pytest.mark.model] if old.name in MODEL else []
    return [*model, pytest.mark.slow] if slow_but and old.name not in slow_but else model


def unpack(old: Old, state: str, folder: Path) -> None:
    """Put a job's files and its runs into a folder, and its pictures where their URLs say."""
    for file in old.folder.iterdir():
        if file.suffix != ".xz":
            (folder / file.name).write_bytes(file.read_bytes())
        if file.suffix == ".png":
            fsspec.filesystem("memory").pipe_file(f"/old-runs/{file.name}", file.read_bytes())
    with tarfile.open(old.folder / f"{state}.tar.xz") as archive:
        archive.extractall(folder, filter="data")


def avbatch(*arguments: str, ends_with: int | None = 0) -> str:
    """Run a command in this process; its standard output."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = COMMAND.main(list(arguments), prog_name="avbatch", standalone_mode=False) or 0
        except SystemExit as ending:
            code = int(ending.code or 0)
    said = f"avbatch {' '.join(arguments)}: exit {code}\n{out.getvalue()}{err.getvalue()}"
    assert ends_with is None or code == ends_with, said
    return out.getvalue()


def answer(*arguments: str, ends_with: int | None = 0) -> dict[str, Any]:
    """What a command says with `--json`."""
    found: dict[str, Any] = json.loads(avbatch(*arguments, "--json", ends_with=ends_with))
    return found


def kept_files(run: str | Path) -> dict[str, str]:
    """Digest of each file of a run that is written once."""
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in _files(Path(run)) if _is_kept(name)}


#: Columns by the names that earlier versions gave them.
RENAMED = {"attempt": "retry_round"}


def finished_rows(run: str | Path) -> list[dict[str, Any]]:
    """Rows of the parts that a run has, whatever it lacks, as they are on the disk, under today's names."""
    parts = sorted((Path(run) / "manifest").iterdir())
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    return [{RENAMED.get(name, name): value for name, value in row.items()} for row in rows]


def manifest(run: str | Path) -> pa.Table:
    """The newest row of every request."""
    return open_run(run).table()


def pixels(run: str | Path) -> dict[str, str | None]:
    """What every request of a run gave."""
    table = manifest(run)
    return dict(zip(table[ID].to_pylist(), table[PIXELS].to_pylist(), strict=True))


def _is_kept(name: str) -> bool:
    return name not in PUBLISHED and name.partition("/")[0] not in PUBLISHED_FOLDERS


def _files(run: Path) -> Iterator[tuple[str, Path]]:
    return ((path.relative_to(run).as_posix(), path) for path in sorted(run.rglob("*")) if path.is_file())
