"""Try again what failed for a passing reason: exponential backoff with full jitter, bounded in time.

A put may report failure although it succeeded: the answer was lost, not the object. So a put-if-absent that meets an
object which was not there when it looked compares the bytes, and counts the object as its own if they are equal. Two
writers that put equal bytes in the same moment may both be told that they won; there is one object, and it is right.

Not covered: giving up in the middle of a try, which the drivers' own timeouts do.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from abstractvision_batch.storage.failures import Failure, classify
from abstractvision_batch.text.redaction import redact

T = TypeVar("T")

#: Names the seconds for which a store that is down is tried again; for impatient people and for tests.
PATIENCE = "AVBATCH_STORE_PATIENCE_S"
DEFAULT_PATIENCE_S = 120.0
#: Of a web server, which is asked for one row's input: a row may wait, and ten thousand may not.
WEB_TRIES = 6

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how long to try. The functions are fields so that a test can do without waiting."""

    tries: int | None = None
    """None: as many as `total_s` has room for."""
    first_wait_s: float = 0.5
    """Longest first wait; doubled each time."""
    max_wait_s: float = 20.0
    total_s: float = field(default_factory=lambda: float(os.environ.get(PATIENCE, DEFAULT_PATIENCE_S)))
    """The last try starts so long after the first, and none later."""
    sleep: Callable[[float], object] = time.sleep
    now: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random
    """Of [0, 1)."""

    def call(self, action: Callable[[], T], *, what: str) -> T:
        """The action's result; its last error if no try succeeded.

        Args:
            action: Safe to repeat.
            what: For the log.
        """
        return self.call_numbered(lambda tried: action(), what=what)

    def call_numbered(self, action: Callable[[int], T], *, what: str) -> T:
        """As `call`, for an action that is told how many tries came before."""
        end = self.now() + self.total_s
        tried = 0
        while True:
            try:
                return action(tried)
            except Exception as exc:
                tried += 1
                # Full jitter: writers that were throttled together do not come back together.
                wait_s = self.random() * min(self.max_wait_s, self.first_wait_s * 2 ** (tried - 1))
                left_s = end - self.now()
                if classify(exc) is not Failure.TRANSIENT or tried == self.tries or left_s <= 0:
                    raise
                wait_s = min(wait_s, left_s)
                said = redact(f"{what}: {exc}")
                _logger.info("%s; try %d in %.1f s, the last in %.0f s", said, tried + 1, wait_s, left_s)
                self.sleep(wait_s)


def put_if_absent(
    put: Callable[[], object],
    *,
    exists: Callable[[], bool],
    holds_our_bytes: Callable[[], bool],
    retries: Retries,
    what: str,
) -> bool:
    """Whether this call created the object.

    Args:
        put: Raises what `classify` calls `Failure.EXISTS` where there is an object.
        exists: Asked before each try. A store that ignores the condition of `put` would replace what is there; asking
            leaves it only the moment between the two requests.
        holds_our_bytes: Whether the object equals what was put; asked where a put of ours may have made it.
        retries: How often and how long.
        what: For the log.
    """

    def attempt(tried: int) -> bool:
        if exists():
            return tried > 0 and holds_our_bytes()
        try:
            put()
        except Exception as exc:
            if classify(exc) is not Failure.EXISTS:
                raise
            # It appeared since we asked. HTTP clients send a PUT again by themselves when a kept connection turns out
            # closed (aiohttp, below s3fs, adlfs and gcsfs), so the first of two PUTs of ours may have made it.
            return holds_our_bytes()
        return True

    return retries.call_numbered(attempt, what=what)
