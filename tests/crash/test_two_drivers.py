"""Two drivers on one run at once leave one whole run, whatever they meet at, even where no put is conditional."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import ray

from tests.support.crash.drivers import Ended, Zygote
from tests.support.crash.runs import (
    NewPlace,
    Place,
    audit_command,
    place_on_disk,
    place_on_s3,
    repair_command,
    retry_command,
    run_command,
    write_job,
)

#: Of the small job's 4 rows one fails.
EXIT_CODE = 1
#: Writes that both drivers are about to do: the record, the plan, an artifact, a part, the merged manifest.
MEETINGS = (
    "put_if_absent run.json",
    "put_if_absent plan.parquet",
    "put artifacts/00000/1",
    "put_if_absent manifest/00001-a0.parquet",
    "put manifest.parquet",
)
#: A store that ignores the condition of a put.
CARELESS = {"file": "no_hard_links", "s3": "ignored_condition"}


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.slow)])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> NewPlace:
    """On a local disk, and on S3."""
    if request.param == "file":
        return lambda: place_on_disk(tmp_path)
    request.getfixturevalue("s3_server")
    return place_on_s3


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    return write_job(tmp_path, "files")


def meet(
    zygote: Zygote, place: Place, commands: Sequence[list[str]], write: str, folder: Path, faults: Sequence[str] = ()
) -> list[Ended]:
    """Two drivers that are about to do the same write in the same moment; how they end."""
    # On a disk the last moment is between looking for the name and giving it.
    last_cut = "unnamed" if place.protocol == "file" else "before"
    folder.mkdir()
    drivers = [
        zygote.start([command], place.root, meet_at=f"{write}: {last_cut}", meeting=folder, faults=faults)
        for command in commands
    ]
    ended = [driver.wait()[0] for driver in drivers]
    assert len(list(folder.iterdir())) == 2, "they did not meet"
    return ended


def undisturbed(zygote: Zygote, spec: Path, new_place: NewPlace, *then: str) -> Place:
    place = new_place()
    commands = [run_command(spec, place), *([retry_command(place)] if "retry" in then else [])]
    zygote.run(*commands, root=place.root)
    return place


def check_whole(zygote: Zygote, spec: Path, place: Place, whole: Place, *, again: int = EXIT_CODE) -> None:
    """One whole run, to which the same command has nothing to add."""
    ended, audited = zygote.run(run_command(spec, place), audit_command(place), root=place.root)

    assert (ended.exit_code, ended.said["generated"], ended.writes) == (again, 0, set())
    assert (audited.exit_code, audited.said["findings"]) == (0, [])
    assert place.rows() == whole.rows()
    assert set(place.digests()) == set(whole.digests())


@pytest.mark.sampled(5)
@pytest.mark.parametrize("write", MEETINGS)
def test_two_drivers_that_start_at_once_leave_one_run(
    write: str, zygote: Zygote, new_place: NewPlace, spec: Path, tmp_path: Path
) -> None:
    place = new_place()
    command = run_command(spec, place)

    ended = meet(zygote, place, [command, command], write, tmp_path / "meeting")

    assert [one.exit_code for one in ended] == [EXIT_CODE, EXIT_CODE], ended
    check_whole(zygote, spec, place, undisturbed(zygote, spec, new_place))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("write", [*MEETINGS[:2], *MEETINGS[3:]])
def test_two_drivers_leave_one_run_where_no_put_is_conditional(
    write: str, zygote: Zygote, new_place: NewPlace, spec: Path, tmp_path: Path
) -> None:
    """Both are told that they won, and each part is of one of them."""
    place = new_place()
    command = run_command(spec, place)

    ended = meet(zygote, place, [command, command], write, tmp_path / "meeting", [CARELESS[place.protocol]])

    assert [one.exit_code for one in ended] == [EXIT_CODE, EXIT_CODE], ended
    assert json.loads(place.read("run.json"))["conditional_put"] is False
    check_whole(zygote, spec, place, undisturbed(zygote, spec, new_place))


def test_two_drivers_finish_a_run_that_crashed(zygote: Zygote, new_place: NewPlace, spec: Path, tmp_path: Path) -> None:
    place = new_place()
    command = run_command(spec, place)
    zygote.start([command], place.root, kill_at="put artifacts/00001/1: before").wait_for_kill()
    first_part = place.digests()["manifest/00000-a0.parquet"]

    ended = meet(zygote, place, [command, command], "put_if_absent manifest/00001-a0.parquet", tmp_path / "meeting")

    assert [one.exit_code for one in ended] == [EXIT_CODE, EXIT_CODE], ended
    assert [one.said["generated"] for one in ended] == [2, 2]
    assert place.digests()["manifest/00000-a0.parquet"] == first_part
    check_whole(zygote, spec, place, undisturbed(zygote, spec, new_place))


@pytest.mark.parametrize("write", ["put_if_absent plan.parquet", "put_if_absent manifest/00001-a0.parquet"])
def test_one_driver_that_is_killed_does_not_disturb_the_other(
    write: str, zygote: Zygote, new_place: NewPlace, spec: Path
) -> None:
    place = new_place()
    command = run_command(spec, place)
    drivers = [
        zygote.start([command], place.root, kill_at=f"{write}: before"),
        zygote.start([command], place.root),
    ]

    killed, other = drivers[0].wait_for_end(), drivers[1].wait()[0]
    zygote.run(repair_command(place), root=place.root)

    assert killed[-1] in (f"{write}: before", "end")
    assert other.exit_code == EXIT_CODE, other
    check_whole(zygote, spec, place, undisturbed(zygote, spec, new_place))


def test_two_retries_at_once_leave_one_attempt(zygote: Zygote, new_place: NewPlace, spec: Path, tmp_path: Path) -> None:
    place = undisturbed(zygote, spec, new_place)
    command = retry_command(place)

    ended = meet(zygote, place, [command, command], "put_if_absent manifest/00000-a1.parquet", tmp_path / "meeting")

    assert [one.exit_code for one in ended] == [0, 0], ended
    assert {name for name in place.digests() if name.endswith("-a1.parquet")} == {"manifest/00000-a1.parquet"}
    check_whole(zygote, spec, place, undisturbed(zygote, spec, new_place, "retry"), again=0)


def test_of_two_specs_for_one_output_one_is_refused(
    zygote: Zygote, new_place: NewPlace, spec: Path, tmp_path: Path
) -> None:
    place = new_place()
    other = write_job(tmp_path, "files", params={"width": 64, "height": 64, "seed": 8})
    commands = [run_command(spec, place), run_command(other, place)]

    ended = meet(zygote, place, commands, "put_if_absent run.json", tmp_path / "meeting")

    assert sorted(one.exit_code for one in ended) == [1, 2], ended
    refused, won = (0, other) if ended[0].exit_code == 2 else (1, spec)
    assert "holds another run" in ended[refused].err
    assert "params.seed" in ended[refused].err
    check_whole(zygote, won, place, undisturbed(zygote, won, new_place))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_two_drivers_on_one_cluster_leave_one_run(
    zygote: Zygote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    execution = {"batch_size": 2, "shard_size": 2, "executor": "ray", "actors": 1}
    slow = {"kind": "procedural", "fail_when": "a cat", "delay_s": 0.1}
    spec = write_job(tmp_path, "files", execution=execution, backend=slow)
    place, alone = place_on_disk(tmp_path), place_on_disk(tmp_path)
    command = run_command(spec, place)

    ended = meet(zygote, place, [command, command], "put_if_absent plan.parquet", tmp_path / "meeting")
    zygote.run(run_command(spec, alone), root=alone.root)

    assert [one.exit_code for one in ended] == [EXIT_CODE, EXIT_CODE], ended
    check_whole(zygote, spec, place, alone)
