"""An asyncio loop in a thread of its own, so that a blocking call can keep many requests in flight.

Works where the caller runs a loop of its own (notebooks, servers), because it never runs one in the caller's thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Value = TypeVar("Value")
_POLL_S = 0.05
_LAST_S = 5.0


class LoopThread:
    """A running loop. `stop` ends it, once; what is still running there is cancelled."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(
        self, work: Coroutine[Any, Any, Value], *, on_wait: Callable[[asyncio.AbstractEventLoop], None] | None = None
    ) -> Value:
        """Run `work` there and wait for its value; an interrupt of the waiting thread cancels it.

        Args:
            work: The coroutine.
            on_wait: Called in this thread every 50 ms while waiting.
        """
        future: Future[Value] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            if on_wait is None:
                return future.result()
            while True:
                try:
                    return future.result(_POLL_S)
                except TimeoutError:
                    if future.done():
                        raise
                    on_wait(self._loop)
        finally:
            future.cancel()

    def stop(self, last: Coroutine[Any, Any, None]) -> None:
        """Run `last`, then end the loop and its thread; from whatever thread a forgotten object is collected in."""

        async def finish() -> None:
            try:
                async with asyncio.timeout(_LAST_S):
                    await last
            finally:
                self._loop.stop()

        asyncio.run_coroutine_threadsafe(finish(), self._loop)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
