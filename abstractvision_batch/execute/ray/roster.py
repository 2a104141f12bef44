"""The driver's view of its actors: where each is, which variant it has, what it was sent, which have room for more.

Nothing here takes longer because there are more actors, but what has to look at each of them.
"""

from __future__ import annotations

from collections import defaultdict
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
    node: str | None = None
    variant: int | None = None
    """The number of the variant whose model it has, or loads."""
    loading: Call | None = None
    """Answers once it has that model."""
    calls: dict[Call, Work] = field(default_factory=dict)
    grants: dict[Call, Grant] = field(default_factory=dict)
    """What those calls may spend; a commit spends nothing."""
    leaving: bool = False
    """Its node is about to go: it gets no more work, and another actor takes its place."""

    @property
    def is_ready(self) -> bool:
        """Whether it has a model, and could run a shard."""
        return self.variant is not None and self.loading is None

    def close_grant(self, call: Call, guard: SpendingGuard, *, begun: bool) -> None:
        """Give back what a call that will not answer was granted, or count it as spent where it had begun."""
        if (grant := self.grants.pop(call, None)) is None:
            return
        if begun:
            guard.lose(grant)
        else:
            guard.settle(grant, tries=0, usd=None)


#: Where an actor stands: its variant, and how many calls it holds; None while it loads.
_Place = tuple[int | None, int | None]


class Roster:
    """All actors of a run that are not lost, and whose call is whose."""

    def __init__(self) -> None:
        self._actors: dict[str, Actor] = {}
        self._owners: dict[Call, Actor] = {}
        self._at: defaultdict[_Place, dict[str, Actor]] = defaultdict(dict)
        """Those that have a node which stays, by where they stand."""
        self._place_of: dict[str, _Place] = {}
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
        self._owners[actor.placing] = actor

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

    def with_room(self, variant: int | None, calls: int) -> Actor | None:
        """An actor that has a variant's model, or none, holds so many calls and may get another."""
        return next(iter(self._at[variant, calls].values()), None)

    def workers(self, variant: int) -> int:
        """Actors that have a variant's model, or load it, and stay."""
        return sum(len(self._at[variant, calls]) for calls in (None, *range(IN_FLIGHT + 1)))

    def loading(self, variant: int) -> int:
        """Those of them that load it."""
        return len(self._at[variant, None])

    def put(self, actor: Actor, node: str) -> None:
        """It runs, on this node."""
        actor.node = node
        self._sort_in(actor)

    def load(self, actor: Actor, variant: int, call: Call) -> None:
        """It loads a variant's model, in place of what it has."""
        actor.variant, actor.loading = variant, call
        self._owners[call] = actor
        self._sort_in(actor)

    def loaded(self, actor: Actor, *, variant: int | None) -> None:
        """It has the model of a variant; of none where that failed."""
        actor.variant, actor.loading = variant, None
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
        if (before := self._place_of.pop(actor.name, None)) is not None:
            del self._at[before][actor.name]
        if actor.node is not None and not actor.leaving and actor.name in self._actors:
            # One that commits for others may hold more calls than it would be sent.
            place = (actor.variant, None if actor.loading is not None else min(len(actor.calls), IN_FLIGHT))
            self._place_of[actor.name] = place
            self._at[place][actor.name] = actor
