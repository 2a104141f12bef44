"""How many requests an endpoint bears, learned from what it accepts and what it refuses. Pure: no clock, no I/O.

An endpoint that refuses says exactly how many it bears: those that it is still working on. So a refusal lowers the
limit to that number, not by a factor, and nothing has to be grown back. What is not known is when it bears more. It
is asked for one more every second round; where it takes that, for 3, 9, 27 more, until it refuses again. It has taken
what it answers, and what it has not refused within a few times as long as its refusals take. A question costs one
refusal and nothing of the endpoint's time, unless a refusal means a pause for all: then the questions are as rare as
the pauses are long.

Compared in simulation with halving (AIMD, TCP Reno) and with a cubic return to the last ceiling (TCP CUBIC): see
`docs/servers.md`.

Not covered: who may send (`shared_limit`, `concurrency`), which requests are tried again (`retries`).
"""

from __future__ import annotations

#: Where an endpoint starts that nothing is known of.
FIRST_LIMIT = 16
#: How much larger the next question is after one that was answered.
GROWTH = 3
#: Answers before the next question: these after a refusal that nothing had asked for, which may be chance, and two
#: rounds of them, if that is more, after a question that was refused.
MIN_ANSWERS, ROUNDS_APART = 8, 2
#: No refusal for so many times as long as a refusal takes, and for at least so many seconds, is consent.
SILENCE, MIN_SILENCE_S = 3.0, 0.02
#: Of what a refusal was seen to take, when the next takes less.
REFUSAL_DECAY = 0.9
#: After a question that cost a pause, the next comes this many pauses later.
PAUSES_APART = 20
#: Nothing is sent after everything was refused, in seconds; doubled each time.
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 16.0


class ControlLaw:
    """The limit of one endpoint. An `epoch` is the time between two changes of the limit."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.limit = min(maximum, FIRST_LIMIT)
        self.epoch = 0
        self.refusing = 0
        """Refusals, one after the other, of an endpoint that was working on nothing; 0 once it answers."""
        self.refusing_since = float("-inf")
        self._asking = True
        self._step = self.limit
        self._answers = 0
        self._answers_apart = MIN_ANSWERS
        self._ask_at = float("-inf")
        self._refusal_s: float | None = None

    def answered(self, count: int, *, epoch: int, sent_s: float, wanted: bool, now: float) -> None:
        """Take answers, or none, and the time that passed.

        Args:
            count: How many.
            epoch: The newest in which one of their requests was sent.
            sent_s: How long ago the first request of this epoch was sent; 0 if none was.
            wanted: Whether requests wait for a turn: else the limit is not what bounds them, and they prove nothing.
            now: Time in seconds.
        """
        self.refusing = 0 if count else self.refusing
        self._answers += count
        if not wanted or self.limit >= self.maximum:
            return
        if self._asking:
            silence_s = max(MIN_SILENCE_S, SILENCE * self._refusal_s) if self._refusal_s else float("inf")
            if epoch == self.epoch or sent_s >= silence_s:
                self._raise(GROWTH * self._step)
        elif self._answers >= self._answers_apart and now >= self._ask_at:
            self._raise(1)

    def refused(self, count: int, *, working_on: int, pause_s: float, took_s: float, now: float) -> float:
        """Take refusals.

        Args:
            count: How many.
            working_on: Requests that are still out, so that the endpoint is likely to have taken them.
            pause_s: How long the endpoint asks to wait, 0 if it does not say.
            took_s: How long the slowest of them took.
            now: Time in seconds.

        Returns:
            Seconds in which nothing may be sent.
        """
        self._refusal_s = max(took_s, REFUSAL_DECAY * (self._refusal_s or 0.0))
        self._answers_apart = max(MIN_ANSWERS, ROUNDS_APART * self.limit if self._asking else 0)
        self.limit = max(1, min(self.limit - count, working_on))
        self.epoch += 1
        self._asking = False
        self._answers = 0
        if working_on == 0:
            self.refusing_since = self.refusing_since if self.refusing else now
            self.refusing += 1
            own_pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self.refusing - 1, 16))
            pause_s = pause_s or own_pause_s
        self._ask_at = now + PAUSES_APART * pause_s
        return pause_s

    def _raise(self, step: int) -> None:
        self._asking = True
        self._step = step
        self._answers = 0
        self.limit = min(self.maximum, self.limit + step)
        self.epoch += 1
