"""Frames per second that are no whole number, from the spec to the file."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from abstractvision_batch import open_run
from abstractvision_batch.errors import SpecError
from abstractvision_batch.media.frame_rates import exact_fps
from abstractvision_batch.verbs.run import run as run_job
from tests.support.planning import Planner

VIDEO: dict[str, Any] = {"task": "text_to_video", "model": "avbatch/procedural", "backend": {"kind": "procedural"}}


@pytest.mark.parametrize(
    ("fps", "exact"),
    [
        (23.976, Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),
        (24000 / 1001, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (119.88, Fraction(120000, 1001)),
        (12.5, Fraction(25, 2)),
        (24.0, Fraction(24)),
        (7, Fraction(7)),
    ],
)
def test_a_rate_is_what_containers_count_in(fps: float, exact: Fraction) -> None:
    assert exact_fps(fps) == exact


@pytest.mark.parametrize("fps", [23.976, "24000/1001", 8])
def test_a_video_has_the_rate_that_was_asked_for(fps: float | str, tmp_path: Path) -> None:
    params = {"width": 16, "height": 16, "num_frames": 3, "fps": fps}
    spec = {
        "name": "job",
        **VIDEO,
        "prompts": {"source": ["a fox"]},
        "params": params,
        "output": {"path": str(tmp_path / "run")},
    }

    run_job(spec)

    opened = open_run(tmp_path / "run")
    (row,) = opened.table().to_pylist()
    expected = 8 if fps == 8 else Fraction(24000, 1001)
    assert row["status"] == "ok"
    assert abs(row["fps"] - float(expected)) < 1e-3
    with av.open(io.BytesIO(opened.read_artifact(row))) as container:
        assert container.streams.video[0].average_rate == expected


def test_rates_of_rows_may_be_fractions_and_whole_ones_keep_their_request_ids(tmp_path: Path) -> None:
    planner = Planner(tmp_path)
    planner.write("p.csv", "prompt,fps\na,23.976\nb,30000/1001\nc,24\nd,24.0\n")
    params = {"num_frames": 3}

    assert planner.build("p.csv", params=params, **VIDEO).column("fps") == [23.976, 30000 / 1001, 24, 24]
    ids = [planner.build(["a"], params={"fps": fps, **params}, **VIDEO).column("request_id") for fps in (24, 24.0)]
    assert ids[0] == ids[1]
    assert "fps: " in planner.problems([{"prompt": "a", "fps": "1/0"}], params=params, **VIDEO)[0]
    with pytest.raises(SpecError, match="not a number from 1 to 1000"):
        planner.build(["a"], params={"fps": "fast"}, **VIDEO)
