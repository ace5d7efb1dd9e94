"""What the explorable "tokens" must compute: its numbers from the package, and its mistakes from dense matrices.

`tests/test_explorables_tokens.py` asks Node, and `tests/browser/test_explorable_tokens.py` asks the browser.
"""

import numpy as np

import minireformer as mr
from explorable_cases import Case
from minireformer.course import cast
from minireformer.reference import FORBIDDEN, SELF, lsh_meetings
from minireformer.unit_length import inverse_length, unit_length, unit_length_backward

ANGLES, STRETCH = (50, 0, 25, 70), 3
MOVED = cast.VECTORS + np.random.default_rng(4).normal(0, 0.3, (16, 2))  # as a reader may leave them
SIZES = [(n_rounds, chunk_len) for n_rounds in (1, 2, 3, 4) for chunk_len in (2, 4, 8)]


def hashed(vectors, n_rounds):
    """Buckets (R, T) of vectors (T, 2) in the figure's rounds."""
    return mr.hash_vectors(vectors[None, None], cast.arrows(ANGLES[:n_rounds]))[0, 0]


def by_the_package(q, v, buckets, dout, chunk_len, causal):
    """out, dqk and dv (3, T, 2) in float64."""
    out, cache = mr.lsh_attention(q[None, None], v[None, None], buckets[None, None], chunk_len=chunk_len, causal=causal)
    dqk, dv = mr.lsh_attention_backward(dout[None, None], cache)
    return np.stack([out[0, 0], dqk[0, 0], dv[0, 0]])


def with_a_mistake(q, v, buckets, dout, chunk_len, causal, mistake):
    """dqk and dv (2, T, 2) from dense matrices (R, T, T), as notebook 05b writes them: one softmax over all rounds."""
    both, own = (lsh_meetings(buckets[None, None], chunk_len, n_before)[0, 0] for n_before in (1, 0))
    position, k = np.arange(len(q)), unit_length(q)
    hidden = causal & (position[None, :] > position[:, None])
    S = np.where(hidden, FORBIDDEN, q @ k.T)
    S = np.where(np.eye(len(q), dtype=bool), SELF, S)
    top = np.where(both > 0, S, FORBIDDEN).max(axis=(0, 2))[:, None]
    e = np.exp(np.minimum(S - top, 0))  # pairs that never meet can be larger
    P = both * e / (both * e).sum(axis=(0, 2))[:, None]
    out_of_round = (P @ v) / np.maximum(P.sum(axis=2, keepdims=True), 1e-300)  # (R, T, 2)
    of_output = out_of_round if mistake == "delta" else (P @ v).sum(axis=0)
    delta = (dout * of_output).sum(axis=-1, keepdims=True)
    dS = np.where(S <= SELF, 0, P * (dout @ v.T - delta))
    sent = own / np.maximum(both, 1) if mistake == "lookback" else 1
    dk = (sent * dS).sum(axis=0).T @ q
    dq = dS.sum(axis=0) @ k
    unit_length_backward(dk, k, inverse_length(q))
    return np.stack([dq + dk, (sent * P).sum(axis=0).T @ dout])


def nearest_border(vectors, n_rounds):
    """The round and token whose vector is nearest to a border between buckets, and the bucket beyond it."""
    near = np.einsum("td,hdrc->hrtc", vectors, cast.arrows(ANGLES[:n_rounds]))[0]  # (R, T, 2)
    near = np.concatenate([near, -near], axis=-1) / np.linalg.norm(vectors, axis=1)[:, None]  # (R, T, 4)
    ranked = near.argsort(axis=-1)
    gap = np.diff(np.take_along_axis(near, ranked[..., -2:], axis=-1))[..., 0]
    where = np.unravel_index(gap.argmin(), gap.shape)
    return *(int(i) for i in where), int(ranked[*where, -2])


def cases():
    yield Case("vectors of tokens", "tokens_maths", "(m) => m.VECTORS", None, lambda: cast.VECTORS)
    for name, vectors in (("the course's", cast.VECTORS), ("moved", MOVED)):
        yield Case(
            f"buckets and order, {name} vectors",
            "tokens_maths",
            "(m, x) => { const b = m.hash(x, m.ANGLES); return [b, b.map(m.sortByBucket)]; }",
            vectors.tolist(),
            lambda vectors=vectors: [hashed(vectors, 4), mr.sort_by_bucket(hashed(vectors, 4))],
        )
        for n_rounds in (1, 4):
            yield Case(
                f"the token nearest to a border, {name} vectors, {n_rounds} rounds",
                "tokens_maths",
                """(m, [x, n]) => {
                    const { round, token, runnerUp } = m.nearestBorder(x, m.ANGLES.slice(0, n));
                    return [round, token, runnerUp];
                }""",
                [vectors.tolist(), n_rounds],
                lambda vectors=vectors, n_rounds=n_rounds: nearest_border(vectors, n_rounds),
            )
    columns = cast.arrows(ANGLES, 8)
    points = np.random.default_rng(5).standard_normal((200, 2))
    yield Case(
        "eight buckets",
        "tokens_maths",
        "(m, x) => m.hash(x, m.ANGLES, 8)",
        points.tolist(),
        lambda: mr.hash_vectors(points[None, None], columns)[0, 0],
    )
    for n_rounds, chunk_len in SIZES:
        for causal in (True, False):
            yield from attention_cases(n_rounds, chunk_len, causal)


def attention_cases(n_rounds, chunk_len, causal):
    name = f"{n_rounds} rounds, chunks of {chunk_len}{', causal' * causal}"
    random = np.random.default_rng(6)
    q, v, dout = random.standard_normal((3, 16, 2))
    buckets = random.integers(0, 4, (n_rounds, 16), dtype=np.int16)
    options = {"chunkLen": chunk_len, "causal": causal}
    yield Case(
        f"attention, forward and backward, {name}",
        "tokens_maths",
        """(m, { q, v, dout, buckets, ...options }) => {
            const f = m.forward(q, v, buckets, options), b = m.backward(dout, f);
            return [f.out, b.dqk, b.dv];
        }""",
        {"q": q.tolist(), "v": v.tolist(), "dout": dout.tolist(), "buckets": buckets.tolist(), **options},
        lambda: by_the_package(q, v, buckets, dout, chunk_len, causal),
    )
    choices = {"nRounds": n_rounds, "follow": 15, **options}
    every = [(vectors, everyone) for vectors in (cast.VECTORS, MOVED) for everyone in (False, True)]
    douts = [np.ones((16, 2)) * (everyone | (np.arange(16) == 15))[:, None] for _, everyone in every]

    def call(**more):
        return [{"vectors": vectors.tolist(), "all": everyone, **choices, **more} for vectors, everyone in every]

    def expected(gradients, flip=False):
        for (vectors, _), dout in zip(every, douts):
            buckets = hashed(vectors, n_rounds)
            if flip:
                round_, token, runner_up = nearest_border(vectors, n_rounds)
                buckets[round_, token] = runner_up
            yield gradients(STRETCH * vectors, vectors, buckets, dout, chunk_len, causal)

    yield Case(
        f"the whole figure, {name}",
        "tokens_maths",
        """(m, all) => all.map((choices) => {
            const { f, found } = m.compute({ ...choices, mistake: "none" });
            return [f.out, found.dqk, found.dv];
        })""",
        call(),
        lambda: list(expected(by_the_package)),
    )
    for mistake in ("lookback", "delta", "rehash"):

        def gradients(*arguments, mistake=mistake):
            return by_the_package(*arguments)[1:] if mistake == "rehash" else with_a_mistake(*arguments, mistake)

        yield Case(
            f"the mistake {mistake}, {name}",
            "tokens_maths",
            "(m, all) => all.map((choices) => { const { found } = m.compute(choices); return [found.dqk, found.dv]; })",
            call(mistake=mistake),
            lambda gradients=gradients, mistake=mistake: list(expected(gradients, flip=mistake == "rehash")),
        )


CASES = list(cases())
