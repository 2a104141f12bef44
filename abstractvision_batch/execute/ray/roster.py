"""The driver's view of its actors: where each is, what it was sent, what that may spend, and which have room for more.

Nothing here takes longer because there are more actors, but what has to look at each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from abstractvision_batch.execute.ray.cluster import Call
from abstractvision_batch.execute.ray.shard_queue import Work
from abstractvision_batch.execute.spending import Grant, SpendingGuard

#: Shards that an actor holds: the second waits in its queue, so that it never idles for the driver.
IN_FLIGHT = 2


@dataclass(slots=True, eq=False)
class Actor:
    """One actor. `calls` are in the order in which it runs them."""

    name: str
    handle: Any
    placing: Call
    loading: Call
    calls: dict[Call, Work] = field(default_factory=dict)
    grants: dict[Call, Grant] = field(default_factory=dict)
    """What those calls may spend; a commit spends nothing."""
    node: str | None = None
    ready: bool = False
    leaving: bool = False
    """Its node is about to go: it gets no more work, and another actor takes its place."""

    def close_grant(self, call: Call, guard: SpendingGuard, *, begun: bool) -> None:
        """Give back what a call that will not answer was granted, or count it as spent where it had begun."""
        if (grant := self.grants.pop(call, None)) is None:
            return
        if begun:
            guard.lose(grant)
        else:
            guard.settle(grant, tries=0, usd=None)


class Roster:
    """All actors of a run that are not lost, and whose call is whose."""

    def __init__(self) -> None:
        self._actors: dict[str, Actor] = {}
        self._owners: dict[Call, Actor] = {}
        self._with_room: tuple[dict[str, Actor], ...] = tuple({} for _ in range(IN_FLIGHT))
        self._works = 0

    def __iter__(self) -> Iterator[Actor]:
        return iter(list(self._actors.values()))

    def __len__(self) -> int:
        return len(self._actors)

    @property
    def works(self) -> int:
        """Calls that generate or commit."""
        return self._works

    def add(self, actor: Actor) -> None:
        """Take a new actor."""
        self._actors[actor.name] = actor
        self._owners[actor.placing] = self._owners[actor.loading] = actor

    def remove(self, actor: Actor) -> None:
        """Forget an actor; its calls are nobody's from now on."""
        del self._actors[actor.name]
        for call in (actor.placing, actor.loading, *actor.calls):
            self._owners.pop(call, None)
        self._works -= len(actor.calls)
        self._sort_in(actor)

    def take_owner(self, call: Call) -> Actor | None:
        """Whose call this was, which has ended; None where its actor is no more."""
        return self._owners.pop(call, None)

    def with_room(self, calls: int) -> Actor | None:
        """An actor that holds so many calls and may get another."""
        return next(iter(self._with_room[calls].values()), None)

    def begin(self, actor: Actor) -> None:
        """It has loaded."""
        actor.ready = True
        self._sort_in(actor)

    def leave(self, actor: Actor) -> None:
        """Its node is about to go."""
        actor.leaving = True
        self._sort_in(actor)

    def sent(self, actor: Actor, call: Call, work: Work, grant: Grant | None = None) -> None:
        """It has one more call."""
        actor.calls[call] = work
        if grant is not None:
            actor.grants[call] = grant
        self._owners[call] = actor
        self._works += 1
        self._sort_in(actor)

    def ended(self, actor: Actor, call: Call) -> Work:
        """It has one call less."""
        work = actor.calls.pop(call)
        self._works -= 1
        self._sort_in(actor)
        return work

    def _sort_in(self, actor: Actor) -> None:
        for actors in self._with_room:
            actors.pop(actor.name, None)
        held = len(actor.calls)
        if actor.ready and not actor.leaving and held < IN_FLIGHT and actor.name in self._actors:
            self._with_room[held][actor.name] = actor
