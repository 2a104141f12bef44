"""Every write of the commit protocol, in order, and from them every point at which the matrix kills a driver.

A protocol that changes fails `test_the_matrix_has_every_point`, whose difference says what to change here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PROTOCOLS = ("file", "s3")
#: What each layout writes of the first and of the second shard, and of the first in a retry; the part comes last. Of
#: `files` also what it writes of the shard that an extension adds, which depends on the layout no more than these.
ARTIFACTS = {
    "files": (
        ("put artifacts/00000/1",),
        ("put artifacts/00001/1", "put artifacts/00001/2"),
        ("put artifacts/00000/1",),
        ("put artifacts/00002/1", "put artifacts/00002/2"),
    ),
    "webdataset": (("put artifacts/00000-1",), ("put artifacts/00001-1",), ("put artifacts/00000-1",)),
    "parquet": (("put artifacts/00000-1",), ("put artifacts/00001-1",), ("put artifacts/00000-1",)),
}
LAYOUTS = tuple(ARTIFACTS)
STARTED = ("probe", "put_if_absent run.json", "put_if_absent plan.parquet")
#: Of the worker; the same worker of an earlier command has written it, which S3 is asked before.
ENVIRONMENT = "put_if_absent environments/1"
#: Of the layout `files` also what makes a data set of the folder.
REPORT = ("put report/contact-sheet.png", "put README.md")
REPORT_OF_FILES = ("put report/contact-sheet.png", "put metadata.parquet", "put README.md")
#: What is killed: a run from its first write to its last; a retry of its failed row; a run that redoes a lost shard; a
#: repair that forgets a shard and removes what belongs to nothing; a repair that merges anew; a run that is extended.
SCENARIOS = ("run", "retry", "redo", "repair", "merge", "extend")
EXTENDED = ("put_if_absent extensions/00001.json", "put_if_absent plan/00001.parquet")
#: Where a write can be cut on a local disk; on S3 each is one request.
CUTS: dict[str, tuple[str, ...]] = {
    "put": ("before", "half written", "unnamed"),
    "put_if_absent": ("before", "half written", "unnamed", "temporary left"),
    "delete": ("before",),
    "probe": ("before", "unnamed", "temporary left", "temporary left (2)"),
}
PROBED_ON_S3 = ("put probe: before", "put_if_absent probe: before", "delete probe: before")


@dataclass(frozen=True, slots=True)
class Case:
    """A driver killed at a point."""

    scenario: str
    layout: str
    protocol: str
    point: str

    def __str__(self) -> str:
        return f"{self.protocol}-{self.layout}-{self.scenario}-{self.point}"


def writes(scenario: str, layout: str) -> Iterator[str]:
    """What an undisturbed command writes, in order."""
    first, second, retried, *added = ARTIFACTS[layout]
    index = ("put index.json",) if layout == "webdataset" else ()
    report = REPORT_OF_FILES if layout == "files" else REPORT
    published = ("delete README.md", *index, "put manifest.parquet", *report)
    if scenario == "run":
        yield from (*STARTED, ENVIRONMENT)
        yield from (*first, "put_if_absent manifest/00000-a0.parquet")
        yield from (*second, "put_if_absent manifest/00001-a0.parquet")
        yield from published
    elif scenario == "retry":
        yield from (ENVIRONMENT, *retried, "put_if_absent manifest/00000-a1.parquet")
        yield from published
    elif scenario == "redo":
        yield from ("delete manifest.parquet", ENVIRONMENT)
        yield from (*second, "put_if_absent manifest/00001-a0.parquet", *published)
    elif scenario == "repair":
        yield from (
            "delete manifest/.tmp-left",
            "delete artifacts/00009/1",
            "delete manifest.parquet",
        )
        yield from ("delete manifest/00000-a1.parquet", "delete manifest/00000-a0.parquet")
    elif scenario == "merge":
        yield from published
    elif scenario == "extend":
        yield from (*EXTENDED, ENVIRONMENT)
        yield from (*added[0], "put_if_absent manifest/00002-a0.parquet", *published)


def points(scenario: str, layout: str, protocol: str) -> Iterator[str]:
    """Where to kill."""
    for write in writes(scenario, layout):
        if protocol == "file":
            yield from (f"{write}: {cut}" for cut in CUTS[write.split(" ")[0]])
        elif write == "probe":
            yield from PROBED_ON_S3
        elif write != ENVIRONMENT or scenario == "run":
            yield f"{write}: before"
    yield "end"


def scenarios(layout: str, protocol: str) -> tuple[str, ...]:
    """What is killed: what hardly depends on the layout in one alone; less on S3, where a case takes a second."""
    if layout == "files":
        return SCENARIOS if protocol == "file" else ("run", "retry", "repair", "extend")
    return ("run", "retry") if protocol == "file" else ("run",)


def cases(protocol: str) -> list[Case]:
    """The matrix of one kind of store."""
    return [
        Case(scenario, layout, protocol, point)
        for layout in LAYOUTS
        for scenario in scenarios(layout, protocol)
        for point in points(scenario, layout, protocol)
    ]


def temporaries(point: str) -> int:
    """How many temporary files a driver that is killed there leaves."""
    if point == "probe: temporary left":
        return 2
    if point in PROBED_ON_S3[1:]:
        return 1
    return 0 if point == "end" or ": before" in point else 1


#: Writes in which a run is killed, and then its resumption.
TWICE = (
    ("put_if_absent plan.parquet", "put_if_absent manifest/00000-a0.parquet"),
    ("put_if_absent manifest/00000-a0.parquet", "put_if_absent manifest/00001-a0.parquet"),
    ("put_if_absent manifest/00001-a0.parquet", "put manifest.parquet"),
    ("put manifest.parquet", "put README.md"),
)
