"""The rows of a dataset in the order of a hash of their numbers; many of them are sorted on the disk.

Long datasets are dealt into piles by the first byte of the hash, and one pile after the other is sorted in memory.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice

from abstractvision_batch.prompts.prompts import SourceRow
from abstractvision_batch.prompts.readers import PromptFile
from abstractvision_batch.storage.scratch import scratch_folder

#: Rows that are sorted in memory, at most.
IN_MEMORY = 1 << 16
_PILES = 256


def shuffle_rows(rows: Iterable[SourceRow], seed: int, *, in_memory: int = IN_MEMORY) -> Iterator[SourceRow]:
    """The rows in an order that only the seed and their numbers decide.

    Raises:
        StorageError: there is no room for them in the system's temporary folder.
    """
    rows = iter(rows)
    first = list(islice(rows, in_memory + 1))
    if len(first) <= in_memory:
        yield from sorted(first, key=lambda row: _hash(seed, row))
    else:
        yield from _sort_on_disk(chain(first, rows), seed)


def _sort_on_disk(rows: Iterable[SourceRow], seed: int) -> Iterator[SourceRow]:
    sources: list[PromptFile | str] = []
    numbers: dict[int, int] = {}
    with scratch_folder() as folder:
        with ExitStack() as stack:
            piles = [stack.enter_context((folder / f"{number:03d}").open("wb")) for number in range(_PILES)]
            for row in rows:
                # A file is open and stays here; rows say which one they are of.
                number = numbers.setdefault(id(row.source), len(sources))
                if number == len(sources):
                    sources.append(row.source)
                hash_ = _hash(seed, row)
                pickle.dump((hash_, number, row[1:]), piles[hash_[0]], pickle.HIGHEST_PROTOCOL)
        for number in range(_PILES):
            pile = []
            with (folder / f"{number:03d}").open("rb") as stream:
                while stream.peek(1):
                    pile.append(pickle.load(stream))
            pile.sort(key=lambda one: one[0])
            for _, source, rest in pile:
                yield SourceRow(sources[source], *rest)


def _hash(seed: int, row: SourceRow) -> bytes:
    return hashlib.blake2b(f"{seed}/{row.number}".encode(), digest_size=16).digest()
