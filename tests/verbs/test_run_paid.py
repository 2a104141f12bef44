"""Runs at a server that bills each request: what is refused costs one row, and nothing is asked for twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.finish import RunResult
from abstractvision_batch.verbs.run import run
from tests.support.openai_server import OpenAIServer, answers, refuses, running_server

FLAGGED = {"error": {"code": 403, "message": "Your input was flagged", "metadata": {"reasons": ["violence"]}}}


def job(server: OpenAIServer, path: Path, prompts: int = 33) -> dict[str, Any]:
    return {
        "name": "paid",
        "model": "gpt-image-2",
        "backend": {"kind": "openai", "base_url": server.base_url, "retries": 1},
        "prompts": {"source": [f"a fox, number {number}" for number in range(prompts)]},
        "params": {"width": 1024, "height": 1024},
        "output": {"path": str(path)},
        "execution": {"executor": "inline", "shard_size": 8},
    }


def kinds(path: Path) -> Counter[str]:
    return Counter(row["error_kind"] or row["status"] for row in open_run(path).table().to_pylist())


def test_one_refused_prompt_of_33_costs_one_row_and_33_requests(tmp_path: Path) -> None:
    with running_server(image_format="png") as server:
        server.misbehave(answers(403, FLAGGED))
        done: RunResult = run(job(server, tmp_path / "run"))
        again = run(job(server, tmp_path / "run"))

    assert (done.succeeded, done.failed, done.exit_code) == (32, 1, 1)
    assert kinds(tmp_path / "run") == {"ok": 32, "policy": 1}
    assert again.generated == 0
    assert len(server.posts) == 33


def test_a_dead_link_among_the_replies_costs_its_row_and_no_other(tmp_path: Path) -> None:
    with running_server(reply_as="url") as server:
        server.file_faults.extend([refuses(403, "expired")] * 2)
        done = run(job(server, tmp_path / "run", prompts=9))

    assert done.exit_code in (0, 1)
    assert done.succeeded + done.failed == 9
    assert done.succeeded >= 8
