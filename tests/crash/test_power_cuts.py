"""What a run puts on a disk would survive a power cut: observed from outside, by what it syncs and in which order.

Killing a process loses nothing that it has written, so the crash matrix cannot see a missing `fsync`; this test watches
the calls themselves. Before a manifest part gets its name, every file that got one must have been synced while it was
still nameless, every folder that got a name must have been synced since, and so must the folder of every new folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.crash.protocol import LAYOUTS
from tests.support.crash.runs import HEALTHY, Place, place_on_disk, retry_command, run_command, write_job

pytestmark = pytest.mark.slow

#: Installed before the command; prints what was not synced in time as the last line of stdout.
WATCH = """
import json, os, sys
root, arguments = sys.argv[1], sys.argv[2:]
synced, unsynced, faults = set(), {}, []
sync = os.fsync

def fsync(fd):
    status = os.fstat(fd)
    synced.add((status.st_dev, status.st_ino))
    unsynced.pop(os.path.realpath(f"/proc/self/fd/{fd}"), None)
    return sync(fd)

def event(name, values):
    if name not in ("os.link", "os.rename", "os.mkdir"):
        return
    path = os.path.realpath(os.fspath(values[0 if name == "os.mkdir" else 1]))
    if not path.startswith(root) or (name != "os.rename" and os.path.lexists(path)):
        return  # elsewhere, or it fails because the name is taken
    if name != "os.mkdir":
        status = os.stat(values[0])
        if (status.st_dev, status.st_ino) not in synced and not path.rpartition("/")[2].startswith("."):
            faults.append(f"{path}: got its name before it was synced")
        if "/manifest/" in path and path.endswith(".parquet"):
            late = f"and {path} was committed without a sync"
            faults.extend([f"{folder}: {what}, {late}" for folder, what in unsynced.items()])
    if not path.rpartition("/")[2].startswith("."):
        unsynced[os.path.dirname(path)] = f"{os.path.basename(path)} got its name there"

os.fsync = fsync
sys.addaudithook(event)
from abstractvision_batch.cli import main
code = main(arguments)
at_root = [f"{folder}: {what}" for folder, what in unsynced.items() if folder == root]
print(json.dumps({"code": code, "faults": faults + at_root}))
"""


def watched(place: Place, command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCH, place.root, *command], capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["code"] in (0, 1), done.stderr
    assert said["faults"] == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_file_and_folder_is_synced_before_a_part_points_to_it(layout: str, tmp_path: Path) -> None:
    place, spec = place_on_disk(tmp_path), write_job(tmp_path, layout)
    grown = write_job(tmp_path, layout, prompts={"source": ["a fox", "a cat", "a dog", "an owl", "a bee", "a cow"]})

    watched(place, run_command(spec, place))
    watched(place, retry_command(place))
    watched(place, [*run_command(grown, place), *HEALTHY, "--extend"])
    watched(place, ["rerun", place.url, "-o", f"{place.url}-again", "--json", "--quiet"])


def test_the_watch_sees_a_sync_that_is_left_out(tmp_path: Path) -> None:
    """A watch that cannot fail proves nothing."""
    place, spec = place_on_disk(tmp_path), write_job(tmp_path, "files")
    broken = WATCH.replace(
        "code = main(arguments)",
        "import abstractvision_batch.storage.local as local\nlocal.sync_folder = lambda folder: None\n"
        "code = main(arguments)",
    )

    done = subprocess.run(
        [sys.executable, "-c", broken, place.root, *run_command(spec, place)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert any("was committed without a sync" in fault for fault in json.loads(done.stdout.splitlines()[-1])["faults"])
