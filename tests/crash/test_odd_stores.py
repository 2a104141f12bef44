"""A store that answers wrongly or late: never a run that says it is done and is not, and the same command mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.crash.drivers import Zygote
from tests.support.crash.runs import audit_command, place_on_s3, repair_command, run_command, write_job
from tests.support.emulators import StoreServer

pytestmark = pytest.mark.slow

INCOMPLETE = 4
#: Of the small job's 4 rows one fails.
FINISHED = 1


@pytest.mark.parametrize("layout", ["files", "webdataset"])
def test_listings_that_are_late_end_in_a_whole_run_or_in_4(
    layout: str, s3_server: StoreServer, zygote: Zygote, tmp_path: Path
) -> None:
    place, spec = place_on_s3(), write_job(tmp_path, layout)

    (late,) = zygote.run(run_command(spec, place), root=place.root, faults=["late_lists"])
    assert late.exit_code in (FINISHED, INCOMPLETE), late.err
    assert "Traceback" not in late.err
    assert (late.exit_code == FINISHED) == ("manifest.parquet" in place.digests())

    ended, _, audited = zygote.run(
        run_command(spec, place), repair_command(place), audit_command(place), root=place.root
    )
    assert ended.exit_code == FINISHED
    assert audited.said["whole"]


def test_error_documents_in_place_of_files_are_one_line_and_pass(
    s3_server: StoreServer, zygote: Zygote, tmp_path: Path
) -> None:
    place, spec = place_on_s3(), write_job(tmp_path, "files")
    zygote.start([run_command(spec, place)], place.root, kill_at="put artifacts/00001/1: before").wait_for_kill()

    for command in (run_command(spec, place), audit_command(place), repair_command(place), ["status", place.url]):
        (wrong,) = zygote.run(command, root=place.root, faults=["wrong_reads"])
        assert wrong.exit_code in (0 if command[0] == "status" else FINISHED, INCOMPLETE), (command, wrong.err)
        assert "Traceback" not in wrong.err

    ended, _, audited = zygote.run(
        run_command(spec, place), repair_command(place), audit_command(place), root=place.root
    )
    assert ended.exit_code == FINISHED
    assert audited.said["whole"]
