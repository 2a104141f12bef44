"""Commands beyond `run` and `retry`, and records that only some backends write, killed at every write on a disk.

Each is gone through once undisturbed; then it is killed at each point that it reached, and the same command again must
leave what the undisturbed one left. All of it is slow: the default run has the same writes in the crash matrix.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from abstractvision_batch.storage.asset_store import LocalAssetStore
from tests.support.crash.drivers import Ended, Zygote
from tests.support.crash.protocol import LAYOUTS
from tests.support.crash.runs import (
    HEALTHY,
    Place,
    audit_command,
    place_on_disk,
    repair_command,
    run_command,
    write_job,
)

pytestmark = pytest.mark.slow

Command = Callable[[Place], list[str]]


@dataclass(frozen=True, slots=True)
class Killer:
    """Kills one command at every point and sees that the same command again mends it."""

    zygote: Zygote
    folder: Path
    faults: Sequence[str] = ()

    def go_through(self, command: Command) -> tuple[Place, Ended]:
        place = place_on_disk(self.folder)
        (ended,) = self.zygote.run(command(place), root=place.root, faults=self.faults)
        return place, ended

    def check(self, command: Command, expect: Callable[[Place, Ended], object]) -> list[str]:
        """Returns the points that were tried; `expect` gives what must be equal at the end of each."""
        whole, undisturbed = self.go_through(command)
        wanted = expect(whole, undisturbed)
        points = list(dict.fromkeys(undisturbed.points))
        for point in points:
            place = place_on_disk(self.folder)
            killed = self.zygote.start([command(place)], place.root, kill_at=point, faults=self.faults)
            assert killed.wait_for_kill()[-1] == point
            (ended,) = self.zygote.run(command(place), root=place.root, faults=self.faults)
            assert expect(place, ended) == wanted, (point, ended.err)
            place.remove()
        return points


@pytest.fixture
def finished(zygote: Zygote, tmp_path: Path) -> Callable[[str], Place]:
    """Makes a finished run of a layout."""

    def make(layout: str) -> Place:
        place = place_on_disk(tmp_path)
        zygote.run([*run_command(write_job(tmp_path, layout), place), *HEALTHY], root=place.root)
        return place

    return make


def whole_run(zygote: Zygote) -> Callable[[Place, Ended], object]:
    """What a finished run has, whatever happened before: it is whole, and nothing else is there once it is repaired."""

    def expect(place: Place, ended: Ended) -> object:
        (repaired, audited) = zygote.run(repair_command(place), audit_command(place), root=place.root)
        assert audited.said["whole"], (audited.out, repaired.out)
        pixels = place.rows().select(["request_id", "status", "pixel_sha256"]).to_pylist()
        return ended.exit_code, pixels, sorted(place.digests())

    return expect


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_rerun_that_is_killed_anywhere_is_finished_by_the_same_command(
    layout: str, zygote: Zygote, finished: Callable[[str], Place], tmp_path: Path
) -> None:
    run = finished(layout)

    points = Killer(zygote, tmp_path).check(
        lambda place: ["rerun", run.url, "-o", place.url, "--json", "--quiet"], whole_run(zygote)
    )

    assert "put_if_absent run.json: before" in points
    assert "put manifest.parquet: unnamed" in points


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_verification_that_is_killed_anywhere_is_repeated(
    layout: str, zygote: Zygote, finished: Callable[[str], Place], tmp_path: Path
) -> None:
    run = finished(layout)

    def command(place: Place) -> list[str]:
        return ["verify", run.url, "--all", "-o", place.url, "--json", "--quiet"]

    points = Killer(zygote, tmp_path).check(command, whole_run(zygote))

    assert any(point.startswith("put_if_absent manifest/") for point in points)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_with_weights_and_a_canary_that_is_killed_anywhere_is_resumed(
    layout: str, zygote: Zygote, tmp_path: Path
) -> None:
    spec = write_job(tmp_path, layout)

    points = Killer(zygote, tmp_path, ["with_weights"]).check(lambda place: run_command(spec, place), whole_run(zygote))

    for name in ("weights.json", "canary.json"):
        assert {f"put_if_absent {name}: {cut}" for cut in ("before", "half written", "unnamed")} <= set(points)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_that_is_killed_while_it_writes_its_gallery_is_whole_and_has_one(
    layout: str, zygote: Zygote, tmp_path: Path
) -> None:
    spec = write_job(tmp_path, layout, gallery=True)

    points = Killer(zygote, tmp_path).check(lambda place: run_command(spec, place), whole_run(zygote))

    for name in ("thumbs/00000-a0-000.webp", "data/columns.js", "index.html"):
        assert f"put gallery/{name}: half written" in points


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
@pytest.mark.parametrize("verb", ["redo", "merge", "extend"])
def test_containers_survive_a_kill_in_every_command_that_writes_them(
    layout: str, verb: str, zygote: Zygote, tmp_path: Path
) -> None:
    spec, grown = write_job(tmp_path, layout), write_job(tmp_path, layout, prompts={"source": PROMPTS_AND_MORE})
    run = place_on_disk(tmp_path)
    zygote.run(run_command(spec, run), root=run.root)
    before = run.content()
    lost = {"redo": "manifest/00001-a0.parquet", "merge": "manifest.parquet"}.get(verb)
    if lost is not None:
        del before[lost]

    def command(place: Place) -> list[str]:
        if not Path(place.root).exists():
            place.fill(before)
        extend = [*run_command(grown, place), "--extend"]
        return extend if verb == "extend" else run_command(spec, place)

    Killer(zygote, tmp_path).check(command, whole_run(zygote))


PROMPTS_AND_MORE = ["a fox", "a cat", "a dog", "an owl", "a bee", "a cow"]


def test_an_asset_store_has_its_content_and_record_after_a_kill_anywhere(zygote: Zygote, tmp_path: Path) -> None:
    def command(place: Place) -> list[str]:
        size = ["--width", "16", "--height", "16", "--steps", "1", "--seed", "3"]
        return ["generate", "a fox", "--backend", "procedural", *size, "--store", place.root, "--json"]

    def expect(place: Place, ended: Ended) -> object:
        (output,) = ended.said["outputs"]
        artifact_id = output["artifact"]["$artifact"]
        store = LocalAssetStore(place.root)
        records = store.list_metadata(artifact_id)
        assert all(record["sha256"] == output["artifact"]["sha256"] for record in records)
        shown = {name for name in place.digests() if not name.startswith(".")}
        return ended.exit_code, store.load_bytes(artifact_id), {name for name in shown if name.count(".") == 1}

    points = Killer(zygote, tmp_path).check(command, expect)

    written = {point.partition(":")[0] for point in points if ": " in point}
    assert written == {"put_if_absent /1", "put_if_absent /2"}  # the content, and its record


def test_a_kill_leaves_no_temporary_folder_once_another_command_has_run(zygote: Zygote, tmp_path: Path) -> None:
    place, spec = place_on_disk(tmp_path), write_job(tmp_path, "webdataset")
    zygote.start([run_command(spec, place)], place.root, kill_at="put artifacts/00001-1: before").wait_for_kill()

    (ended,) = zygote.run(run_command(spec, place), root=place.root)

    assert json.loads(ended.out)["failed"] == 1
    assert list(zygote.temporary.glob("avbatch-*")) == []
