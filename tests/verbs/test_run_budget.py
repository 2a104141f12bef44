"""`execution.budget`: a run stops before it would cost more, says so, and goes on once it may."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import SpecError
from abstractvision_batch.execute import shard_runner
from abstractvision_batch.job.load import load_job
from abstractvision_batch.media.images import encode_image
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob
from tests.support.openai_server import OpenAIServer, answers, refuses, resets, running_server

SMALL = {"batch_size": 2, "shard_size": 4}
#: Of the procedural model, so that money can be spent without a server.
PRICED_CARD = {
    "id": "test/priced",
    "license": "mit",
    "tasks": {"text_to_image": {"params": {"width": {"default": 32}, "height": {"default": 24}}}},
    "backends": {"procedural": {"price": {"request_usd": 0.04, "source": "a test, 2026-11-21"}}},
}


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_runner, "BACKOFF_S", 0.0)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with running_server() as server:
        yield server


def _rows(path: str | Path) -> list[dict[str, Any]]:
    parts = sorted((Path(path) / "manifest").glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def _reply(**more: Any) -> dict[str, Any]:
    """What a server answers to a request for any picture."""
    picture = base64.b64encode(encode_image(Image.new("RGB", (32, 24), "red"), "png")).decode()
    return {"created": 1, "data": [{"b64_json": picture}], **more}


def _on(server: OpenAIServer, **fields: Any) -> dict[str, Any]:
    return {"kind": "openai", "base_url": server.base_url, "retries": 0, "timeout_s": 5.0, **fields}


def _within(budget: dict[str, Any], **execution: Any) -> dict[str, Any]:
    return {**SMALL, "budget": budget, **execution}


def test_a_run_stops_before_the_shard_that_does_not_fit_and_goes_on_with_a_larger_budget(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job()

    stopped = run({**job, "execution": _within({"requests": 10})})
    again = run({**job, "execution": _within({"requests": 10})})
    done = run({**job, "execution": _within({"requests": 20})})

    assert (stopped.succeeded, stopped.failed, stopped.exit_code, stopped.interrupted) == (8, 0, 1, False)
    assert stopped.stopped == (
        "stopped: execution.budget.requests: 8 of 10 tries are used, and the next shard of 4 requests does not fit in "
        "the 2 left (raise it; running again resumes)"
    )
    assert (again.generated, again.stopped, again.exit_code) == (0, stopped.stopped, 1)
    assert (done.generated, done.succeeded, done.stopped, done.exit_code, done.attempts) == (12, 20, None, 0, 20)
    assert audit(tmp_path / "run").findings == ()


def test_a_first_shard_that_does_not_fit_starts_nothing(make_job: MakeJob, tmp_path: Path) -> None:
    """Not even the backend, whose model would take minutes to load."""
    result = run(make_job(backend={"kind": "procedural", "load_s": 3600}, execution=_within({"requests": 3})))

    assert (result.generated, result.exit_code) == (0, 1)
    assert "the next shard of 4 requests does not fit in the 3 left" in str(result.stopped)
    assert _rows(tmp_path / "run") == []


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("budget", "max_attempts"), [(6, 3), (9, 3), (13, 2), (17, 5), (40, 3)])
def test_repeated_requests_count_and_the_server_never_sees_more_than_the_budget(
    server: OpenAIServer, make_job: MakeJob, budget: int, max_attempts: int
) -> None:
    """Every third answer is a server error: 12 requests take some 18 tries, if there are so many."""
    for number in range(40):
        server.misbehave(*([refuses(500, "oops")] if number % 3 == 0 else [answers(200, _reply())]))
    execution = _within({"requests": budget}, max_attempts=max_attempts)
    job = make_job(backend=_on(server), samples_per_prompt=1, prompts={"source": list("abcdefghijkl")})

    result = run({**job, "execution": execution})

    rows = _rows(result.path)
    assert len(server.posts) == result.attempts == sum(row["attempts"] for row in rows) <= budget
    assert (result.stopped is None) == (len(rows) == 12)
    assert len(rows) >= 4
    posts = len(server.posts)
    again = retry(result.path, overrides=[f"execution.budget.requests={budget + 5}"])
    assert len(server.posts) - posts == again.attempts - result.attempts
    assert len(server.posts) <= budget + 5


def test_a_request_whose_reply_was_lost_is_counted_each_time_it_is_sent(
    server: OpenAIServer, make_job: MakeJob
) -> None:
    """Without a budget the backend would send it again by itself, within one try."""
    server.misbehave(resets, resets)
    job = make_job(backend=_on(server, retries=5), prompts={"source": ["a fox"]}, samples_per_prompt=2)

    result = run({**job, "execution": _within({"requests": 4})})

    assert (result.succeeded, result.attempts, len(server.posts)) == (2, 4, 4)


def test_money_is_counted_by_the_cards_price_and_shown(make_job: MakeJob, tmp_path: Path) -> None:
    spec = _priced(make_job, tmp_path, {"usd": 0.5})

    stopped = CliRunner().invoke(app, ["run", str(spec)])
    raised = CliRunner().invoke(app, ["run", str(spec), "--set", "execution.budget.usd=1", "--json"])
    status = [CliRunner().invoke(app, ["status", str(tmp_path / "run"), *more]).stdout for more in ([], ["--json"])]

    assert stopped.exit_code == 1
    assert "cost       $0.48 for 12 tries" in stopped.stdout
    assert (
        "stopped: execution.budget.usd: $0.48 of $0.50 is spent, and the next shard of 4 requests, at up to $0.16, "
        "does not fit in the $0.02 left (raise it; running again resumes)"
    ) in stopped.stdout
    result = json.loads(raised.stdout)
    assert (raised.exit_code, result["succeeded"], result["attempts"]) == (0, 20, 20)
    assert result["cost_usd"] == pytest.approx(0.8)
    assert "cost       $0.80 for 20 tries" in status[0]
    assert json.loads(status[1])["cost_usd"] == pytest.approx(0.8)
    assert {row["cost_usd"] for row in _rows(tmp_path / "run")} == {0.04}


def _priced(make_job: MakeJob, tmp_path: Path, budget: dict[str, Any], **sections: Any) -> Path:
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(PRICED_CARD))
    spec = tmp_path / "job.yaml"
    job = make_job(
        model="test/priced",
        registry={"paths": ["card.yaml"]},
        execution=_within(budget),
        params={"seed": 7},
        **sections,
    )
    spec.write_text(yaml.safe_dump(job))
    return spec


def test_rows_of_before_the_model_had_a_price_are_put_to_the_budget_at_todays(
    make_job: MakeJob, tmp_path: Path
) -> None:
    """Eight rows without a price are $0.32 of the budget, and none of the cost; the next shard is $0.16."""
    spec = _priced(make_job, tmp_path, {"requests": 8}, backend={"kind": "procedural", "fail_when": "fox"})
    free = {**PRICED_CARD, "backends": {"procedural": {}}}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(free))
    unpriced = run(spec)
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(PRICED_CARD))

    stopped = run(load_job(spec, overrides=["execution.budget={usd: 0.5}"]))

    assert (unpriced.attempts, unpriced.cost_usd) == (8, None)
    assert (stopped.succeeded, stopped.failed, stopped.attempts) == (8, 4, 12)
    assert stopped.cost_usd == pytest.approx(0.16)
    assert "$0.48 of $0.50 is spent" in str(stopped.stopped)
    status = json.loads(CliRunner().invoke(app, ["status", str(tmp_path / "run"), "--json"]).stdout)
    assert {name: status[name] for name in ("succeeded", "failed", "attempts")} == {
        **{"succeeded": 8, "failed": 4},
        "attempts": 12,
    }
    assert status["cost_usd"] == pytest.approx(0.16)


def test_a_retry_spends_of_the_same_budget_and_a_rows_cost_adds_up(make_job: MakeJob, tmp_path: Path) -> None:
    """20 requests at $0.04 cost $0.80, the 4 dogs twice."""
    spec = _priced(make_job, tmp_path, {"usd": 0.9}, backend={"kind": "procedural", "fail_when": "dog"})
    run(spec)

    healthy = "backend.fail_when=null"
    stopped = retry(tmp_path / "run", overrides=[healthy])
    healed = retry(tmp_path / "run", overrides=[healthy, "execution.budget.usd=0.96"])

    assert (stopped.generated, stopped.failed, stopped.exit_code) == (0, 4, 1)
    assert "$0.80 of $0.90 is spent" in str(stopped.stopped)
    assert (healed.generated, healed.failed, healed.stopped, healed.attempts) == (4, 0, None, 24)
    assert healed.cost_usd == pytest.approx(0.96)
    rows = pq.read_table(tmp_path / "run/manifest.parquet").to_pylist()
    assert {row["cost_usd"] for row in rows if row["prompt"] == "a dog"} == {0.08}


def test_a_reply_that_counts_its_tokens_costs_those(server: OpenAIServer, make_job: MakeJob) -> None:
    """The server's own error first: billed as the dearest request there is."""
    usage = {"input_tokens": 10, "output_tokens": 100, "input_tokens_details": {"text_tokens": 10, "image_tokens": 0}}
    server.misbehave(refuses(503, "busy"), answers(200, _reply(usage=usage)), answers(200, _reply()))
    prices = {"million_text_tokens_usd": 5, "million_image_tokens_usd": 10, "million_output_tokens_usd": 40}
    price = {"request_usd": 0.2, **prices}
    execution = {"batch_size": 1, "budget": {"usd": 0.7}}
    job = make_job(backend=_on(server, price=price), prompts={"source": ["a fox", "a cat"]}, samples_per_prompt=1)

    result = run({**job, "execution": execution})

    assert [row["cost_usd"] for row in _rows(result.path)] == [pytest.approx(0.2 + 0.00005 + 0.004), pytest.approx(0.2)]
    assert result.cost_usd == pytest.approx(0.40405)


def test_after_its_time_no_shard_starts_and_running_ones_commit(make_job: MakeJob, tmp_path: Path) -> None:
    """Each shard takes 0.4 s."""
    job = make_job(backend={"kind": "procedural", "delay_s": 0.1}, execution=_within({"wall_s": 0.3}))

    first = run(job)
    second = run(job)

    assert 4 <= first.generated < 20
    assert first.generated % 4 == 0
    assert first.stopped == (
        "stopped: execution.budget.wall_s (0.3) is over (running again resumes, for as long again)"
    )
    assert second.generated >= 4
    assert audit(tmp_path / "run", fast=True).succeeded == first.generated + second.generated


def test_too_many_failures_are_said_before_a_budget_that_ends_with_the_same_shard(make_job: MakeJob) -> None:
    execution = _within({"requests": 4}, max_failed=0)

    result = run(make_job(backend={"kind": "procedural", "fail_when": "."}, execution=execution))

    assert "execution.max_failed" in str(result.stopped)
    assert (result.failed, result.exit_code) == (4, 1)


def test_a_budget_in_usd_without_a_price_is_refused_with_its_line(make_job: MakeJob, tmp_path: Path) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(make_job(execution=_within({"usd": 5}))))
    line = next(n for n, text in enumerate(spec.read_text().splitlines(), 1) if "usd" in text)

    with pytest.raises(SpecError, match=r"execution\.budget\.usd: nothing says what a request costs") as caught:
        load_job(spec)

    assert str(caught.value).startswith(f"{spec}:{line}:")
    assert "price: {request_usd: …} under backends.procedural of the card" in str(caught.value)


def test_a_card_whose_price_says_nothing_is_refused(make_job: MakeJob, tmp_path: Path) -> None:
    spec = _priced(make_job, tmp_path, {})
    card = {**PRICED_CARD, "backends": {"procedural": {"price": {"request_usd": -1, "per_image": 2}}}}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))

    with pytest.raises(SpecError) as caught:
        load_job(spec)

    assert "price.request_usd: -1 is not a number from 0 to 1000000" in str(caught.value)
    assert "price.per_image: unknown field" in str(caught.value)
    assert "price.source: required field is missing (where it was read, and when)" in str(caught.value)


def test_a_price_changes_no_fingerprint(make_job: MakeJob, tmp_path: Path) -> None:
    """Servers change their prices; the pixels are the same."""
    spec = _priced(make_job, tmp_path, {})
    assert run(spec).exit_code == 0
    dearer = {**PRICED_CARD, "backends": {"procedural": {"price": {"request_usd": 9, "source": "tomorrow"}}}}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(dearer))

    assert run(spec).generated == 0


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_on_ray_shards_side_by_side_share_the_budget(make_job: MakeJob, tmp_path: Path) -> None:
    ray = {"executor": "ray", "cpus_per_actor": 0.5, "actors": 2}

    stopped = run(make_job(execution=_within({"requests": 14}, **ray)))
    done = run(make_job(execution=_within({"requests": 20}, **ray)))

    assert (stopped.succeeded, stopped.attempts, stopped.exit_code) == (12, 12, 1)
    assert "does not fit in the 2 left" in str(stopped.stopped)
    assert (done.generated, done.stopped, done.exit_code) == (8, None, 0)
    assert audit(tmp_path / "run").findings == ()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_on_ray_what_a_dead_worker_may_have_spent_is_spent(make_job: MakeJob) -> None:
    """Its one shard of 3 requests is granted 9 tries, and nobody knows how many of them it made."""
    execution = {"batch_size": 1, "shard_size": 3, "budget": {"requests": 11}}
    ray = {"executor": "ray", "cpus_per_actor": 0.5, "actors": 1}
    job = make_job(prompts={"source": ["a fox", "a dog", "a cat"]}, samples_per_prompt=1, execution=execution)

    stopped = run({**job, "backend": {"kind": "procedural", "crash_when": "dog"}, "execution": {**execution, **ray}})
    resumed = run(job)

    assert "9 of 11 tries are used" in str(stopped.stopped)
    assert stopped.generated == 0
    assert (resumed.succeeded, resumed.stopped) == (3, None)
