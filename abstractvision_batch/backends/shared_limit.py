"""One endpoint's limit shared out among the workers of a run, by what they report. Pure: no I/O, a clock is given.

A worker says now and then what it has in flight, what waits and how its requests fared, and is told how many it may
have in flight until it reports again: no request costs a call. A worker that is silent for `LEASE_S` gives up what it
held; one that comes back, or that a new `SharedLimit` has never heard of, takes part with what it has in flight.

Not covered: the law of the limit (`control_law`), how a report travels, and what a worker does when it cannot.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from abstractvision_batch.backends.control_law import ControlLaw

#: What a worker holds that has not reported for so long, in seconds, is given to others.
LEASE_S = 15.0
#: Workers report eight times while a request takes, within these bounds, in seconds.
MIN_REPORT_S, MAX_REPORT_S = 0.02, 1.0
#: And all together at most so often: one report in so many seconds.
REPORT_COST_S = 0.005
#: Answers after which a worker that has one permit more than others lets it go.
TURN = 16


@dataclass(frozen=True, slots=True)
class Report:
    """How a worker stands, and how its requests fared since its last report."""

    worker: str
    in_flight: int
    waiting: int
    answered: int = 0
    epoch: int = -1
    """The newest under which one of the answered was sent."""
    sent_epoch: int = -1
    """The newest under which anything was sent, the first of it `sent_s` ago."""
    sent_s: float = 0.0
    refused: int = 0
    refusal_s: float = 0.0
    """How long the slowest refusal took."""
    pause_s: float = 0.0
    """The longest that a refusal asked for."""
    latency_s: float = 0.0
    """Mean of the answered."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a worker may do until it reports again."""

    permits: int
    """Requests in flight at most; more that it has already may end."""
    epoch: int
    pause_s: float
    """Nothing is sent for so long."""
    refusing: int
    """Refusals, one after the other, of an endpoint that was working on nothing."""
    refusing_s: float
    """How long ago the first of them was."""
    report_in_s: float


#: Brings a report to the limit that workers share. Raises ConnectionError when it cannot.
Exchange = Callable[[Report], Awaitable[Allowance]]


@dataclass(slots=True)
class _Lease:
    permits: int = 0
    before: int = 0
    """Permits of the grant before, which the worker may still act on until it reports again."""
    in_flight: int = 0
    waiting: int = 0
    answered: int = 0
    heard_at: float = 0.0

    @property
    def demand(self) -> int:
        return self.in_flight + self.waiting

    @property
    def held(self) -> int:
        return max(self.permits, self.before, self.in_flight)

    @property
    def sent(self) -> int:
        """What is likely in flight by now: a worker with requests that wait uses its permits."""
        return max(self.permits, self.in_flight) if self.waiting else self.in_flight


class SharedLimit:
    """The limit of one endpoint and who holds how much of it."""

    def __init__(self, maximum: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.law = ControlLaw(maximum)
        self._clock = clock
        self._leases: dict[str, _Lease] = {}
        self._paused_until = float("-inf")
        self._latency_s = 0.0

    def exchange(self, report: Report) -> Allowance:
        """Take a report, and answer what its worker may do."""
        now = self._clock()
        self._leases = {name: one for name, one in self._leases.items() if now - one.heard_at < LEASE_S}
        if report.worker not in self._leases:
            # Not from 0: it would have every odd permit until it had caught up.
            answered = min((one.answered for one in self._leases.values()), default=0)
            self._leases[report.worker] = _Lease(answered=answered)
        lease = self._leases[report.worker]
        lease.in_flight, lease.waiting, lease.heard_at = report.in_flight, report.waiting, now
        self._learn(report, lease, now)
        lease.before, lease.permits = lease.permits, self._permits_of(lease)
        if not lease.demand:
            del self._leases[report.worker]
        return Allowance(
            lease.permits,
            self.law.epoch,
            pause_s=max(0.0, self._paused_until - now),
            refusing=self.law.refusing,
            refusing_s=now - self.law.refusing_since if self.law.refusing else 0.0,
            report_in_s=self._report_in_s(),
        )

    def drop(self, worker: str) -> None:
        """Give up what a worker holds: it is dead."""
        self._leases.pop(worker, None)

    def _learn(self, report: Report, lease: _Lease, now: float) -> None:
        if report.answered:
            lease.answered += report.answered
            self._latency_s += (report.latency_s - self._latency_s) * (0.2 if self._latency_s else 1.0)
        if report.refused:
            others = sum(one.sent for name, one in self._leases.items() if name != report.worker)
            pause_s = self.law.refused(
                report.refused,
                working_on=others + report.in_flight,
                pause_s=report.pause_s,
                took_s=report.refusal_s,
                now=now,
            )
            self._paused_until = max(self._paused_until, now + pause_s)
        wanted = sum(one.demand for one in self._leases.values()) > self.law.limit
        sent_s = report.sent_s if report.sent_epoch == self.law.epoch else 0.0
        self.law.answered(report.answered, epoch=report.epoch, sent_s=sent_s, wanted=wanted, now=now)

    def _permits_of(self, lease: _Lease) -> int:
        """Its share, as far as others do not hold it still."""
        held = sum(one.held for one in self._leases.values() if one is not lease)
        return max(0, min(self._share_of(lease), self.law.limit - held))

    def _share_of(self, wanted: _Lease) -> int:
        """Everyone gets what they want or as much as anyone; those with fewest answers get what does not divide."""
        left = self.law.limit
        hungry = sorted(self._leases.values(), key=lambda one: one.demand)
        while hungry and hungry[0].demand <= left // len(hungry):
            content = hungry.pop(0)
            if content is wanted:
                return content.demand
            left -= content.demand
        share, odd = divmod(left, len(hungry))
        hungry.sort(key=lambda one: one.answered // TURN)
        return share + any(one is wanted for one in hungry[:odd])

    def _report_in_s(self) -> float:
        wanted = min(MAX_REPORT_S, max(MIN_REPORT_S, self._latency_s / 8))
        return max(wanted, REPORT_COST_S * len(self._leases))
