"""Which slots meet: every pair once, in tiles of any size, in the windows and behind the masks that were asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import xp
from minireformer import reference, schedule
from minireformer.attention import AttentionOptions
from minireformer.schedule import FAR, Plan, Schedule
from minireformer.tables import HeadTable, Scratch, without_repeats


def make(plan, by="queries", n_heads=1, n_queries=None, n_keys=None, dtype="float64", head=0):
    """A `Schedule` of one head out of `n_heads`."""
    if plan.order is not None:
        n_queries = n_keys = plan.order.shape[2]
    queries, keys = (HeadTable(xp.empty((1, n_heads, n, 4), dtype)) for n in (n_queries, n_keys))
    return Schedule(plan, range(head, head + 1), by, queries, keys, Scratch(queries.xp, np.dtype(dtype)))


def orders(n_rounds, length, seed=0):
    """One head's (1, R, T), and the buckets that it comes from."""
    buckets = xp.asarray(np.random.default_rng(seed).integers(0, 4, (1, n_rounds, length)))
    return xp.argsort(buckets, axis=-1, kind="stable"), buckets


def meetings(s, forbidden=False):
    """How often each query meets each key: (T, S) ints, counted tile by tile; those that stay after the masks."""
    counts = np.zeros((s.n_queries, s.n_keys), int)
    for chunk, window in s.tiles():
        query, key = (np.asarray(x.tolist()) for x in np.broadcast_arrays(*tile_tokens(s, chunk, window)))
        seen = np.ones(query.shape, bool)
        if forbidden:
            S = xp.zeros(query.shape)
            s.forbid(S, chunk, window, s.weights(chunk, window))
            seen = np.asarray(S.tolist()) > -FAR / 8
        np.add.at(counts, (query[seen], key[seen]), 1)
    return counts


def tile_tokens(s, chunk, window):
    return [np.asarray(x.tolist()) for x in s.pairs(s.query, s.key, chunk, window)]


@settings(max_examples=40)
@given(
    st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.integers(0, 3), st.integers(0, 2), st.integers(1, 400)
)
def test_both_directions_meet_the_pairs_of_the_dense_equations(n_rounds, n_chunks, chunk_len, before, after, logits):
    order, buckets = orders(n_rounds, n_chunks * chunk_len)
    plan = Plan(AttentionOptions(chunk_len, before, after, causal=False), order=order, seeds=(0,) * n_rounds)
    expected = reference.lsh_meetings(buckets[None], chunk_len, before, after)[0, 0].sum(axis=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "TILE_LOGITS", logits)
        for by in ("queries", "keys"):
            np.testing.assert_array_equal(meetings(make(plan, by)), expected.tolist())


@pytest.mark.parametrize("n_queries, n_keys", [(1, 1), (7, 7), (5, 40), (40, 5)])
@pytest.mark.parametrize("logits, block", [(1, 1), (24, 3), (1 << 17, 1024)])
def test_where_all_meet_all_every_pair_meets_once(n_queries, n_keys, logits, block, monkeypatch):
    monkeypatch.setattr(schedule, "TILE_LOGITS", logits)
    monkeypatch.setattr(schedule, "BLOCK_LEN", block)
    for by in ("queries", "keys"):
        found = meetings(make(Plan(AttentionOptions(causal=False)), by, 1, n_queries, n_keys))
        np.testing.assert_array_equal(found, np.ones((n_queries, n_keys)))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("exclude_self", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("chunk_len", [None, 4])
def test_masks_forbid_later_hidden_and_own_keys(causal, exclude_self, masked, chunk_len):
    length = 24
    key_mask = np.random.default_rng(0).random((1, length)) < 0.6 if masked else np.ones((1, length), bool)
    order = orders(2, length)[0] if chunk_len else None
    given_mask = xp.asarray(key_mask) if masked else None
    plan = Plan(AttentionOptions(chunk_len, causal=causal), exclude_self, order, given_mask, seeds=(0, 0))
    for by in ("queries", "keys"):
        s = make(plan, by, 1, length, length)
        met = meetings(s)
        allowed = np.broadcast_to(key_mask, met.shape) & (np.tril(np.ones(met.shape, bool)) if causal else True)
        allowed = allowed & ~np.eye(length, dtype=bool) if exclude_self else allowed
        np.testing.assert_array_equal(meetings(s, forbidden=True), np.where(allowed, met, 0))


@pytest.mark.parametrize("same_bucket", [True, False])
@pytest.mark.parametrize("count_once", [True, False])
def test_weights_of_the_papers_equations(same_bucket, count_once):
    """Eq. 4: only keys of one's own bucket and round. Eq. 16: a key that is met in N rounds counts 1/N in each."""
    order, buckets = orders(3, 24)
    options = AttentionOptions(4, 1, 1, False, same_bucket, count_once)
    plan = Plan(options, order=order, buckets=buckets, seeds=(0, 0, 0))
    met = reference.lsh_meetings(buckets[None], 4, 1, 1, same_bucket, own_round=True)[0, 0].sum(axis=0).tolist()
    for by in ("queries", "keys"):
        s, total = make(plan, by), np.zeros((24, 24))
        for chunk, window in s.tiles():
            weights = s.weights(chunk, window)
            if weights is None:
                assert not same_bucket and not count_once
                return
            query, key = np.broadcast_arrays(*tile_tokens(s, chunk, window))
            np.add.at(total, (query, key), np.asarray(weights.tolist()))
        np.testing.assert_allclose(total, np.minimum(met, 1) if count_once else met, atol=1e-14)


def test_slices_without_repeats_hold_no_token_twice_and_together_are_the_window(monkeypatch):
    monkeypatch.setattr(schedule, "TILE_LOGITS", 2 * 4 * 16)
    for options in (AttentionOptions(4, 3, 0), AttentionOptions(4, 1, 2), AttentionOptions(4, 0, 0)):
        for by in ("queries", "keys"):
            s = make(Plan(options, order=orders(2, 16)[0], seeds=(0, 0)), by)
            for _, window in s.tiles():
                parts = without_repeats(s, window)
                slots = [slot for part in parts for slot in range(part.start, part.stop)]
                assert sorted(slots) == list(range(window.start, window.stop))
                for part in parts:
                    tokens = s.query[0, part].tolist()
                    assert len(set(tokens)) == len(tokens)


def test_windows_are_views_of_the_slots_that_they_overlap_in():
    s = make(Plan(AttentionOptions(3, 1, 1), order=orders(1, 12)[0]))
    slots = xp.arange(15.0).reshape(1, 15, 1)  # three chunks, and one before and after
    windows = s.windows(slots)
    assert windows.shape == (1, 3, 9, 1) and s.chunks(slots[:, 3:12]).shape == (1, 3, 3, 1)
    assert windows[0, :, :, 0].tolist() == [list(range(first, first + 9)) for first in (0, 3, 6)]
    slots[0, 3] = -1.0
    assert windows[0, 0, 3, 0] == windows[0, 1, 0, 0] == -1


@pytest.mark.parametrize("by", ["queries", "keys"])
@pytest.mark.parametrize("chunk_len", [None, 4])
def test_the_dropout_mask_is_a_function_of_seed_head_round_query_and_key(by, chunk_len, monkeypatch):
    """Not of the tile, the direction, or the key's slot."""
    length, order = 16, orders(2, 16)[0]
    order = xp.concatenate([order, order[:, ::-1]]) if chunk_len else None

    def masks(by, logits, seeds, head):
        seeds = seeds if chunk_len else seeds[:1]
        monkeypatch.setattr(schedule, "TILE_LOGITS", logits)
        plan = Plan(AttentionOptions(chunk_len, causal=False), order=order, dropout=0.5, seeds=seeds)
        s, found = make(plan, by, 2, length, length, head=head), {}
        for chunk, window in s.tiles():
            query, key = np.broadcast_arrays(*tile_tokens(s, chunk, window))
            round_ = (chunk.start - s.pad) // length if chunk_len and by == "queries" else 0
            if chunk_len and by == "keys":
                round_ = np.broadcast_to(
                    np.asarray(s.windows(s.round[None, window] % 2).tolist())[:, :, None], key.shape
                )
            keep = np.asarray(s.keep(chunk, window).tolist())
            for q, k, r, value in np.broadcast(query, key, round_, keep):
                assert found.setdefault((int(q), int(k), int(r)), float(value)) == float(value)
        return found

    whole = masks("queries", 1 << 17, (5, 6), 0)
    assert set(whole.values()) == {0.0, 2.0} and 0.3 < np.mean(list(whole.values())) / 2 < 0.7
    assert masks(by, 64, (5, 6), 0) == whole
    assert masks(by, 64, (7, 6), 0) != whole
    other_head = masks(by, 64, (5, 6), 1)
    assert any(other_head[pair] != whole[pair] for pair in other_head.keys() & whole.keys())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_last_tokens_of_a_million_know_which_of_them_is_later(dtype):
    length = 1 << 20
    s = make(Plan(AttentionOptions(2), True, order=xp.arange(length)[None, None]), dtype=dtype)
    last = slice(s.pad + length - 2, s.pad + length)
    window, S = slice(last.start - 2, last.stop), xp.zeros((1, 1, 2, 4), dtype)
    s.forbid(S, last, window, None)
    assert (S[0, 0] > -1).tolist() == [[True, True, False, False], [True, True, True, False]]


@pytest.mark.parametrize("by_token", [True, False])
def test_a_head_table_finds_the_rows_of_a_head_without_a_copy(by_token):
    heads = xp.arange(2.0 * 3 * 5 * 2).reshape((2, 5, 3, 2) if by_token else (2, 3, 5, 2))
    heads = heads.swapaxes(1, 2) if by_token else heads
    layout = HeadTable(heads)
    table = layout.table(heads)
    table[0, 0] = -1.0
    assert heads.reshape(-1)[0] == -1 or heads[0, 0, 0, 0] == -1  # the same memory
    for head in range(6):
        expected = heads[head // 3, head % 3].tolist()
        assert table[layout.all_rows(range(head, head + 1))].tolist() == expected
        assert table[layout.rows(range(head, head + 1), xp.arange(5)[None])][0].tolist() == expected
    assert layout.heads(table).tolist() == heads.tolist()
    assert layout.table(xp.array(heads.tolist())).tolist() == table.tolist()  # one that lies otherwise
