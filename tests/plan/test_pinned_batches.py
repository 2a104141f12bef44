"""Which requests share a forward pass, and how batches are cut into shards."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from abstractvision_batch.plan.batches import auto_shard_size, cut_shards, pin_batches

KEYS = st.lists(st.integers(0, 5), max_size=300)


def test_alternating_keys_still_make_full_batches() -> None:
    requests = [(index % 2, index) for index in range(10)]

    assert list(pin_batches(requests, 4)) == [[0, 2, 4, 6], [1, 3, 5, 7], [8], [9]]


def test_requests_of_one_key_stay_in_order() -> None:
    assert list(pin_batches(((0, i) for i in range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_the_batch_that_waits_longest_is_closed_when_the_window_is_full() -> None:
    requests = [("rare", -1), *(("common", i) for i in range(9))]

    assert list(pin_batches(requests, 2, window=4)) == [[0, 1], [2, 3], [4, 5], [6, 7], [-1], [8]]
    many = list(pin_batches(((key, key) for key in range(20)), 2, window=4))
    assert many == [[key] for key in range(20)]


@settings(deadline=None)
@given(keys=KEYS, batch_size=st.integers(1, 9), window=st.integers(1, 20))
def test_every_request_is_in_one_batch_and_no_batch_mixes_keys(keys: list[int], batch_size: int, window: int) -> None:
    batches = list(pin_batches(((key, (key, n)) for n, key in enumerate(keys)), batch_size, window=window))

    assert sorted(n for batch in batches for _, n in batch) == list(range(len(keys)))
    assert all(len({key for key, _ in batch}) == 1 for batch in batches)
    assert all(1 <= len(batch) <= batch_size for batch in batches)


@settings(deadline=None)
@given(keys=KEYS, batch_size=st.integers(1, 9))
def test_within_the_window_only_the_last_batch_of_a_key_is_smaller(keys: list[int], batch_size: int) -> None:
    batches = list(pin_batches(((key, key) for key in keys), batch_size))

    short = Counter(batch[0] for batch in batches if len(batch) < batch_size)
    assert all(count == 1 for count in short.values())


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 7), max_size=60), shard_size=st.integers(1, 40))
def test_shards_are_whole_batches_in_order(sizes: list[int], shard_size: int) -> None:
    batches = [[n] * size for n, size in enumerate(sizes)]
    shards = list(cut_shards(batches, shard_size))

    assert [batch for shard in shards for batch in shard] == batches
    rows = [sum(map(len, shard)) for shard in shards]
    assert all(count >= shard_size for count in rows[:-1])
    assert all(sum(map(len, shard[:-1])) < shard_size for shard in shards)


def test_shard_size_grows_with_the_job_within_limits() -> None:
    assert [auto_shard_size(n, video=False) for n in (1, 4096, 25_600, 1_000_000)] == [16, 16, 100, 256]
    assert [auto_shard_size(n, video=True) for n in (1, 4096, 1_000_000)] == [4, 16, 32]
