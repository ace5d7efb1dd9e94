"""The Reformer in one file, from the imports to a trained model: NumPy only, every gradient written by hand.

    python reformer_in_one_file.py        trains it on the paper's duplicate task, in about a minute

A Transformer compares every token with every other, and stores every layer's input for the backward pass. The Reformer
(Kitaev, Kaiser, Levskaya, ICLR 2020, arXiv:2001.04451) does neither. It hashes tokens so that similar ones get the same
number, sorts them by it, and compares only neighbours in that order. And its layers can be run in reverse: the backward
pass works out their inputs from their outputs.

The file reads like the paper, whose sections and equations stand beside the lines. Each function has its backward pass
directly below: `f(x) -> y, cache` and `f_backward(dy, cache) -> dx`, where dx is the gradient of the loss with
respect to x. In the comments on shapes,

    B batch   T tokens   H heads   D size of a head   d width of the model   V vocabulary
    R hash rounds   C tokens in a chunk   N = R T / C chunks
"""

import math
import time

import numpy as np

B, T, V = 16, 256, 128
L, H, D, D_MODEL, D_FF = 1, 4, 32, 128, 128  # L blocks
R, C = 4, 32
N_BUCKETS = 2 * T // C  # so a bucket fills half a chunk, on average
STEPS, WARMUP, LEARNING_RATE = 150, 60, 0.006


# Section 2, LSH attention. A hash that tends to give vectors with a small angle between them the same bucket.


def hash_vectors(q, rotations):
    """h(q) = argmax([qΩ; -qΩ]) for q (B, H, T, D) and R random matrices Ω (H, R, D, n_buckets / 2) -> (B, H, R, T)."""
    projected = q[:, :, None] @ rotations  # B, H, R, T, n_buckets / 2
    return np.concatenate([projected, -projected], axis=-1).argmax(axis=-1)  # no gradient: buckets are whole numbers


def sort_by_bucket(buckets):
    """The token in each slot, after each round is sorted by bucket: (B, H, R, T). We call this `order`."""
    return buckets.argsort(axis=-1, kind="stable")  # stable: within a bucket, tokens stay in the order of the text


# Into slots and chunks, and back. Nothing here but copies; the gradient of a copy goes back to where it came from.


def to_slots(x, order):
    """Put x (B, H, T, ...) of each token into its slot of each round, and cut every C slots -> (B, H, N, C, ...)."""
    b, h, _, _ = np.ogrid[: len(x), : x.shape[1], :1, :1]
    return x[b, h, order].reshape(*x.shape[:2], -1, C, *x.shape[3:])


def to_tokens(y, order):
    """The way back, to the order of the text: y (B, H, N, C, ...) -> (B, H, R, T, ...), one result for each round."""
    b, h, r, _ = np.ogrid[: len(y), : y.shape[1], : order.shape[2], :1]
    slot = order.argsort(axis=-1)  # of each token: argsort inverts a permutation
    return y.reshape(*order.shape, *y.shape[4:])[b, h, r, slot]


def to_slots_backward(dy, order):
    """A token was copied to R slots, so the gradients of its copies add up: (B, H, N, C, ...) -> (B, H, T, ...)."""
    return to_tokens(dy, order).sum(axis=2)


def look_back(x):
    """Windows (B, H, N, 2C, ...): each chunk behind the one before it. Before the first comes the last (eq. 5)."""
    return np.concatenate([np.roll(x, 1, axis=2), x], axis=3)


def look_back_backward(dw):
    """A chunk is in two windows: in its own, and in the first half of the next one."""
    return dw[:, :, :, C:] + np.roll(dw[:, :, :, :C], -1, axis=2)


# Queries are keys, too ("shared-QK"), but at length 1: so a logit is |q| cos(angle), and the angle is what we hash.


def unit_length(q):
    """k = q / |q| for q (..., D) -> k, |q|"""
    length = np.sqrt((q * q).sum(axis=-1, keepdims=True) + 1e-6 * q.shape[-1])  # never 0
    return q / length, length


def unit_length_backward(dk, k, length):
    """Making q longer does not change k, so dq has no part along k."""
    return (dk - k * (k * dk).sum(axis=-1, keepdims=True)) / length


def logits(Q, K, order):
    """S = Q K', for Q (B, H, N, C, D) and K (B, H, N, 2C, D), with a mask on positions in the text (eq. 3)."""
    position = order.reshape(*Q.shape[:4])
    query, key = position[..., :, None], look_back(position)[..., None, :]
    S = np.where(key <= query, Q @ K.mT, -1e9)  # B, H, N, C, 2C: nobody sees a later token
    return np.where(key == query, -1e5, S)  # or itself, unless it sees nothing else: -1e5 beats only -1e9


def logits_backward(dS, Q, K):
    """dS is 0 where the mask replaced a logit -> dQ, dK"""
    return dS @ K, dS.mT @ Q


def lsh_attention(q, v, order):
    """One softmax over the keys that a query meets in all rounds: q, v (B, H, T, D) -> O (B, H, T, D), cache (eq. 2).

    The paper gives each round a softmax with log-sum-exp z_r, and then weights the rounds by exp(z_r - z): the same sum.
    """
    Q, V = to_slots(q, order), look_back(to_slots(v, order))  # B, H, N, C, D and B, H, N, 2C, D
    K = look_back(to_slots(unit_length(q)[0], order))  # B, H, N, 2C, D
    S = logits(Q, K, order)  # B, H, N, C, 2C
    m = to_tokens(S.max(axis=-1), order).max(axis=2)  # B, H, T: a query's largest logit, in any round
    P = np.exp(S - to_slots(m, order)[..., None])
    l = to_tokens(P.sum(axis=-1), order).sum(axis=2)  # B, H, T: its sum over all rounds; z = m + log l
    O = to_tokens(P @ V, order).sum(axis=2) / l[..., None]  # B, H, T, D
    return O, (q, v, order, O, m, l)


def lsh_attention_backward(dO, cache):
    """-> dq, dv. The weights P were not kept; m and l are enough to compute them again."""
    q, v, order, O, m, l = cache
    k, length = unit_length(q)
    Q, K, V = to_slots(q, order), look_back(to_slots(k, order)), look_back(to_slots(v, order))
    P = np.exp(logits(Q, K, order) - to_slots(m, order)[..., None]) / to_slots(l, order)[..., None]  # B, H, N, C, 2C
    delta = (dO * O).sum(axis=-1)  # B, H, T: Δ, the mean of a query's dP, weighted by P
    dO = to_slots(dO, order)  # B, H, N, C, D
    dV = P.mT @ dO  # B, H, N, 2C, D
    dP = dO @ V.mT  # B, H, N, C, 2C
    dS = P * (dP - to_slots(delta, order)[..., None])
    dQ, dK = logits_backward(dS, Q, K)
    dq, dk, dv = (to_slots_backward(x, order) for x in (dQ, look_back_backward(dK), look_back_backward(dV)))
    return dq + unit_length_backward(dk, k, length), dv


# Section 3, the reversible Transformer. Its blocks consist of F, attention, and G, feed-forward, behind a LayerNorm each.


def layer_norm(x, scale, shift):
    """x (B, T, d) -> y, cache"""
    std = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-12)
    n = (x - x.mean(axis=-1, keepdims=True)) / std
    return n * scale + shift, (n, std, scale)


def layer_norm_backward(dy, cache):
    """-> dx, dscale, dshift. Shifting or stretching x does not change n, so dx has no part along 1 or along n."""
    n, std, scale = cache
    dn = dy * scale
    dx = (dn - dn.mean(axis=-1, keepdims=True) - n * (dn * n).mean(axis=-1, keepdims=True)) / std
    return dx, (dy * n).sum(axis=(0, 1)), dy.sum(axis=(0, 1))


def attention(x, w, rotations=None, order=None):
    """F(x) for x (B, T, d) -> f, order, cache. Hashes with `rotations`, or replays the `order` of an earlier call."""
    n, norm = layer_norm(x, w["f_scale"], w["f_shift"])
    n = n[:, None]  # B, 1, T, d
    q, v = n @ w["Wqk"], n @ w["Wv"]  # B, H, T, D, as weights are H, d, D
    if order is None:
        order = sort_by_bucket(hash_vectors(q, rotations))
    O, heads = lsh_attention(q, v, order)
    return (O @ w["Wo"]).sum(axis=1), order, (n, norm, O, heads)  # Wo is H, D, d


def attention_backward(df, w, cache):
    """-> dx, grads"""
    n, norm, O, heads = cache
    df = df[:, None]  # B, 1, T, d
    dq, dv = lsh_attention_backward(df @ w["Wo"].mT, heads)
    grads = {"Wqk": (n.mT @ dq).sum(axis=0), "Wv": (n.mT @ dv).sum(axis=0), "Wo": (O.mT @ df).sum(axis=0)}
    dn = (dq @ w["Wqk"].mT + dv @ w["Wv"].mT).sum(axis=1)
    dx, grads["f_scale"], grads["f_shift"] = layer_norm_backward(dn, norm)
    return dx, grads


def feed_forward(x, w):
    """G(x) for x (B, T, d) -> g, cache. C positions at a time: the hidden layer never exists as a whole (eq. 10)."""
    n, norm = layer_norm(x, w["g_scale"], w["g_shift"])
    g = np.empty_like(n)
    for t in range(0, n.shape[1], C):
        a = np.maximum(n[:, t : t + C] @ w["W1"] + w["b1"], 0)  # B, C, d_ff
        g[:, t : t + C] = a @ w["W2"] + w["b2"]
    return g, (n, norm)


def feed_forward_backward(dg, w, cache):
    """-> dx, grads. Each hidden chunk is computed again."""
    n, norm = cache
    dn, grads = np.empty_like(n), {name: np.zeros_like(w[name]) for name in ("W1", "b1", "W2", "b2")}
    for t in range(0, n.shape[1], C):
        n_t, dg_t = n[:, t : t + C], dg[:, t : t + C]
        a = np.maximum(n_t @ w["W1"] + w["b1"], 0)
        dh = (dg_t @ w["W2"].mT) * (a > 0)
        dn[:, t : t + C] = dh @ w["W1"].mT
        grads["W1"] += (n_t.mT @ dh).sum(axis=0)
        grads["b1"] += dh.sum(axis=(0, 1))
        grads["W2"] += (a.mT @ dg_t).sum(axis=0)
        grads["b2"] += dg_t.sum(axis=(0, 1))
    dx, grads["g_scale"], grads["g_shift"] = layer_norm_backward(dn, norm)
    return dx, grads


def reversible_blocks(x, blocks, rotations):
    """x (B, T, d) -> y1, y2 (B, T, d) and each block's order. No cache is kept (eq. 7 and 9)."""
    x1, x2, orders = x, x, []
    for w, rotation in zip(blocks, rotations):
        f, order, _ = attention(x2, w, rotation)
        y1 = x1 + f
        y2 = x2 + feed_forward(y1, w)[0]
        x1, x2 = y1, y2
        orders.append(order)
    return x1, x2, orders


def reversible_blocks_backward(dy1, dy2, y1, y2, blocks, orders):
    """-> dx, grads. Starts from the last outputs, and recovers the inputs of block after block (eq. 8)."""
    grads = []
    for w, order in zip(reversed(blocks), reversed(orders)):
        g, cache = feed_forward(y1, w)
        x2 = y2 - g
        dg, g_grads = feed_forward_backward(dy2, w, cache)
        dy1 = dy1 + dg
        f, _, cache = attention(x2, w, order=order)  # hashing again might flip a bucket: x2 is right only up to rounding
        x1 = y1 - f
        df, f_grads = attention_backward(dy1, w, cache)
        dy2 = dy2 + df
        y1, y2 = x1, x2
        grads.insert(0, f_grads | g_grads)
    return dy1 + dy2, grads  # both streams started as x


# The whole model, between embeddings and logits.


def reformer(tokens, params, rotations):
    """tokens (B, T) -> logits (B, T, V), cache"""
    w, *blocks = params
    x = w["embedding"][tokens] + w["positions"]  # B, T, d
    y1, y2, orders = reversible_blocks(x, blocks, rotations)
    n, norm = layer_norm(np.concatenate([y1, y2], axis=-1), w["scale"], w["shift"])  # B, T, 2d
    return n @ w["W"] + w["b"], (tokens, y1, y2, orders, n, norm)


def reformer_backward(dlogits, params, cache):
    """-> grads, of the same form as params"""
    w, *blocks = params
    tokens, y1, y2, orders, n, norm = cache
    grads = {"W": (n.mT @ dlogits).sum(axis=0), "b": dlogits.sum(axis=(0, 1))}
    dy, grads["scale"], grads["shift"] = layer_norm_backward(dlogits @ w["W"].mT, norm)
    dx, block_grads = reversible_blocks_backward(*np.split(dy, 2, axis=-1), y1, y2, blocks, orders)
    grads["embedding"], grads["positions"] = np.zeros_like(w["embedding"]), dx.sum(axis=0)
    np.add.at(grads["embedding"], tokens, dx)  # a token may occur many times: its gradients add up
    return [grads, *block_grads]


def cross_entropy(logits, targets, mask):
    """The mean of -log softmax(logits)[target] over the positions in the mask -> loss, log softmax (B, T, V)"""
    log_p = logits - logits.max(axis=-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(log_p, targets[..., None], axis=-1)[mask].mean(), log_p


def cross_entropy_backward(log_p, targets, mask):
    """dlogits = (softmax - one-hot) / n at the n positions in the mask"""
    one_hot = targets[..., None] == np.arange(log_p.shape[-1])
    return (np.exp(log_p) - one_hot) * mask[..., None] / int(mask.sum())


# Section 5, experiments: the duplicate task.


def new_parameters(random):
    """A dict of the weights outside the blocks, and one for each block."""

    def normal(*shape, std):
        return (std * random.standard_normal(shape)).astype("float32")

    def ones_and_zeros(name, n):
        return {f"{name}scale": np.ones(n, "float32"), f"{name}shift": np.zeros(n, "float32")}

    params = [{"embedding": normal(V, D_MODEL, std=0.02), "positions": normal(T, D_MODEL, std=0.02)}]
    params[0] |= ones_and_zeros("", 2 * D_MODEL)
    params[0] |= {"W": normal(2 * D_MODEL, V, std=(2 * D_MODEL) ** -0.5), "b": np.zeros(V, "float32")}
    for _ in range(L):
        block = ones_and_zeros("f_", D_MODEL) | ones_and_zeros("g_", D_MODEL)
        block |= {name: normal(H, D_MODEL, D, std=D_MODEL**-0.5) for name in ("Wqk", "Wv")}
        block["Wo"] = normal(H, D, D_MODEL, std=(H * D) ** -0.5)
        block |= {"W1": normal(D_MODEL, D_FF, std=D_MODEL**-0.5), "b1": np.zeros(D_FF, "float32")}
        block |= {"W2": normal(D_FF, D_MODEL, std=D_FF**-0.5), "b2": np.zeros(D_MODEL, "float32")}
        params.append(block)
    return params


def duplicate_task(random):
    """0 w 0 w, with random words w -> tokens, the next token at each position, where that is in the second w."""
    half = np.pad(random.integers(1, V, (B, T // 2 - 1)), ((0, 0), (1, 0)))
    tokens = np.concatenate([half, half], axis=1)  # B, T
    mask = np.zeros((B, T), bool)
    mask[:, T // 2 : -1] = True
    return tokens, np.roll(tokens, -1, axis=1), mask


def adam(params, grads, means, squares, step, lr):
    """One step, in place (Kingma and Ba, 2015, algorithm 1)."""
    for w, g, mean, square in zip(params, grads, means, squares):
        for name in w:
            mean[name] += 0.1 * (g[name] - mean[name])
            square[name] += 0.001 * (g[name] ** 2 - square[name])
            m, s = mean[name] / (1 - 0.9**step), square[name] / (1 - 0.999**step)
            w[name] -= lr * m / (np.sqrt(s) + 1e-8)


def train(seed=0):
    random = np.random.default_rng(seed)
    params = new_parameters(random)
    means, squares = ([{name: np.zeros_like(w[name]) for name in w} for w in params] for _ in "ms")
    start = printed = time.perf_counter()
    for step in range(1, STEPS + 1):
        tokens, targets, mask = duplicate_task(random)
        rotations = random.standard_normal((L, H, R, D, N_BUCKETS // 2), dtype="float32")
        scores, cache = reformer(tokens, params, rotations)
        loss, log_p = cross_entropy(scores, targets, mask)
        grads = reformer_backward(cross_entropy_backward(log_p, targets, mask), params, cache)
        adam(params, grads, means, squares, step, LEARNING_RATE * min(1, step / WARMUP))
        right = (scores.argmax(axis=-1) == targets)[mask].mean()
        if time.perf_counter() - printed > 1 or step == STEPS:
            printed = time.perf_counter()
            print(f"step {step:4}   loss {loss:6.3f}   {right:6.1%} right   {printed - start:4.0f} s", flush=True)


if __name__ == "__main__":
    train()
