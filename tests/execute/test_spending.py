"""The spending guard never lets a run pass its budget, whatever shards do with what they are granted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abstractvision_batch.execute.spending import Grant, SpendingGuard
from abstractvision_batch.job.model import ExecutionSpec
from abstractvision_batch.registry.prices import PriceSpec, cost_usd, format_usd
from abstractvision_batch.runs.counts import Counts

PRICE = PriceSpec(request_usd=0.01)


def _guard(rows: list[int], *, max_attempts: int = 3, spent: Counts | None = None, **budget: Any) -> SpendingGuard:
    execution = ExecutionSpec.model_validate({"budget": budget, "max_attempts": max_attempts})
    return SpendingGuard(execution, price=PRICE, spent=spent, rows=dict(enumerate(rows)))


def _spent(attempts: int, cost: float | None = None, unpriced: int = 0) -> Counts:
    return Counts(succeeded=attempts, attempts=attempts, cost_usd=cost, unpriced_attempts=unpriced)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    max_attempts=st.integers(1, 4),
    requests=st.none() | st.integers(1, 600),
    cents=st.none() | st.integers(1, 600),
    before=st.integers(0, 100),
    at_once=st.integers(1, 6),
    data=st.data(),
)
def test_no_run_passes_its_budget_and_none_stops_while_its_next_shard_fits(
    rows: list[int],
    max_attempts: int,
    requests: int | None,
    cents: int | None,
    before: int,
    at_once: int,
    data: st.DataObject,
) -> None:
    """Up to `at_once` shards side by side, each of which uses some of its grant, is lost, or never began."""
    usd = None if cents is None else cents / 100
    guard = _guard(
        rows, max_attempts=max_attempts, spent=_spent(before, before * PRICE.request_usd), requests=requests, usd=usd
    )
    limit = min((one for one in (requests, cents) if one is not None), default=None)
    used, running, waiting = before, list[tuple[int, Grant]](), list(range(len(rows)))
    while waiting or running:
        grant = guard.grant(waiting[0]) if waiting and len(running) < at_once else None
        if grant is not None:
            running.append((waiting.pop(0), grant))
            continue
        if not running:
            assert guard.stopped is not None
            assert limit is not None
            assert used + rows[waiting[0]] > limit
            return
        shard, grant = running.pop(data.draw(st.integers(0, len(running) - 1)))
        most = rows[shard] * max_attempts if grant.tries is None else grant.tries
        assert most >= rows[shard]
        tries = data.draw(st.sampled_from([most, rows[shard], 0]) | st.integers(0, most))
        used += tries
        assert limit is None or used <= max(limit, before)
        if tries == most and data.draw(st.booleans()):
            guard.lose(grant)
        else:
            guard.settle(grant, tries=tries, usd=cost_usd(PRICE, tries))
    assert guard.stopped is None


def test_a_budget_of_exactly_the_plan_is_enough_for_it() -> None:
    guard = _guard([64] * 4, requests=256, usd=2.56)

    for shard in range(4):
        grant = guard.grant(shard)
        assert grant is not None
        guard.settle(grant, tries=64, usd=0.64)

    assert guard.stopped is None


def test_a_shard_waits_for_what_others_give_back_and_the_run_stops_only_when_none_is_left() -> None:
    guard = _guard([10, 10, 10], max_attempts=3, requests=45)
    first = guard.grant(0)

    assert first == Grant(30)
    assert (guard.grant(1), guard.stopped) == (None, None)
    guard.settle(first, tries=10, usd=0.1)
    second = guard.grant(1)
    assert second == Grant(30)
    guard.settle(second, tries=30, usd=0.3)
    assert guard.grant(2) is None
    assert guard.stopped == (
        "stopped: execution.budget.requests: 40 of 45 tries are used, and the next shard of 10 requests does not fit "
        "in the 5 left (raise it; running again resumes)"
    )


def test_near_the_end_a_shard_is_granted_fewer_repetitions() -> None:
    guard = _guard([10], max_attempts=3, requests=112, spent=_spent(100))

    assert guard.grant(0) == Grant(12)


def test_the_message_names_the_limit_that_binds() -> None:
    guard = _guard([10], requests=1000, usd=1.0, spent=_spent(95, 0.95))

    assert guard.grant(0) is None
    assert guard.stopped == (
        "stopped: execution.budget.usd: $0.95 of $1.00 is spent, and the next shard of 10 requests, at up to $0.10, "
        "does not fit in the $0.05 left (raise it; running again resumes)"
    )


def test_tries_of_a_time_without_a_price_cost_what_they_would_now() -> None:
    assert _guard([1], usd=1.0, spent=_spent(100, 0.5, unpriced=49)).grant(0) == Grant(1)
    assert _guard([1], usd=1.0, spent=_spent(100, 0.5, unpriced=50)).grant(0) is None


def test_without_limits_nothing_is_counted() -> None:
    assert _guard([10]).grant(0) == Grant(None)
    assert SpendingGuard(ExecutionSpec()).grant(7) == Grant(None)


def test_a_price_that_was_no_upper_bound_is_said(caplog: pytest.LogCaptureFixture) -> None:
    guard = _guard([2], usd=1.0)
    grant = guard.grant(0)
    assert grant is not None

    guard.settle(grant, tries=2, usd=0.5)

    assert "more than price.request_usd ($0.01) allows for" in caplog.text


TOKENS = PriceSpec(
    request_usd=0.2, million_text_tokens_usd=5, million_image_tokens_usd=10, million_output_tokens_usd=40
)
USAGE = {
    "input_tokens": 300,
    "output_tokens": 1000,
    "input_tokens_details": {"text_tokens": 100, "image_tokens": 200},
}


@pytest.mark.parametrize(
    ("price", "tries", "usage", "expected"),
    [
        (PRICE, 0, None, 0.0),
        (PRICE, 3, None, 0.03),
        (PRICE, 1, USAGE, 0.01),
        (TOKENS, 1, None, 0.2),
        (TOKENS, 1, USAGE, 0.0005 + 0.002 + 0.04),
        (TOKENS, 3, USAGE, 0.4 + 0.0005 + 0.002 + 0.04),
        (TOKENS, 1, {"input_tokens": 300, "output_tokens": 1000}, 0.003 + 0.04),
        (TOKENS, 1, {"output_tokens": 1000}, 0.2),
        (TOKENS, 1, {**USAGE, "output_tokens": "many"}, 0.2),
        (TOKENS, 1, "nothing", 0.2),
    ],
)
def test_a_request_costs_its_tokens_where_they_are_counted_and_every_other_try_the_most(
    price: PriceSpec, tries: int, usage: object, expected: float
) -> None:
    assert cost_usd(price, tries, usage) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("usd", "shown"), [(12.5, "$12.50"), (1234.567, "$1,234.57"), (0.0042, "$0.0042"), (0, "$0.00")]
)
def test_amounts_read_well(usd: float, shown: str) -> None:
    assert format_usd(usd) == shown
