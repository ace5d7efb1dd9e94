"""The Reformer in one file, from the imports to a trained model: NumPy only, and every gradient written by hand.

    python reformer_in_one_file.py        trains it on the paper's duplicate task, in about a minute

A Transformer compares every token with every other, and keeps what every layer computes for the backward pass. The
Reformer (Kitaev, Kaiser, Levskaya, ICLR 2020, arXiv:2001.04451) avoids both. It hashes tokens into buckets, where
similar ones probably meet, sorts them by bucket, and compares only neighbours: 2 C R T logits instead of T T. And its
blocks keep no caches, because they can be undone: the backward pass works out their inputs from their outputs.

Read from top to bottom; the paper's equations (eq.) are named beside the lines. Right below `f(x) -> y, cache` you find
`f_backward(dy, cache) -> dx`, where dx is the gradient of the loss with respect to x. NumPy's x.mT is x with its last
two axes swapped. Shapes are on the right; these are their letters:

    B batch    T tokens    V vocabulary    H heads    D size of a head    d width of the model    L blocks
    R rounds of hashing    C tokens in a chunk        N = R T / C chunks, one round after another

The package `minireformer` computes the same, faster and in less memory. Read next: notebooks/00_the_memory_wall.ipynb.
"""
import time

import numpy as np

B, T, V, L = 16, 128, 128, 2
D_MODEL, D_FF, H, D, R, C = 64, 64, 2, 32, 4, 8
STEPS, WARMUP, LEARNING_RATE = 250, 60, 0.006

# ---- Section 2: LSH attention ----------------------------------------------------------------------------------------
def hash_and_sort(q, rotations):
    """Hash q (B, H, T, D) with random rotations Ω (H, R, D, n_buckets / 2): the bucket is argmax([qΩ; -qΩ]).

    Vectors at a small angle probably share a bucket, and R rounds give them R chances. We sort each round's tokens by
    bucket, and call a place in the sorted row a slot. -> order (B, H, R, T): the token in each slot. No gradient flows
    through it: a tiny change of q hardly ever moves a token to another bucket.
    """
    projected = q[:, :, None] @ rotations                                                   # B, H, R, T, n_buckets / 2
    buckets = np.concatenate([projected, -projected], axis=-1).argmax(axis=-1)              # B, H, R, T
    return buckets.argsort(axis=-1, kind="stable")  # stable: in a bucket, tokens stay in the order of the text

def to_slots(x, order):
    """Copy each token's x (B, H, T, ...) to its slot in every round, and cut into chunks -> (B, H, N, C, ...)."""
    b, h, _, _ = np.ogrid[:len(x), :x.shape[1], :1, :1]     # so that x[b, h, order] is         B, H, R, T, ...
    return x[b, h, order].reshape(*x.shape[:2], -1, C, *x.shape[3:])

def to_tokens(y, order):
    """Bring y (B, H, N, C, ...) back to the order of the text -> (B, H, R, T, ...): R results for each token.
    Summed over R, it is the backward pass of `to_slots`: the gradients of a token's R copies add up."""
    b, h, r, _ = np.ogrid[:len(y), :y.shape[1], :order.shape[2], :1]
    return y.reshape(*order.shape, *y.shape[4:])[b, h, r, order.argsort(axis=-1)]  # argsort inverts a permutation

def look_back(x):
    """A chunk's window is the chunk before it and itself (eq. 5), in one circle through the chunks of all rounds."""
    return np.concatenate([np.roll(x, 1, axis=2), x], axis=3)                               # B, H, N, 2C, ...
def look_back_backward(dy):
    """A chunk is in two windows, its own and the next chunk's, so two gradients add up."""
    return dy[:, :, :, C:] + np.roll(dy[:, :, :, :C], -1, axis=2)                           # B, H, N, C, ...

def unit_length(q):
    """A token's key is its query at length 1. So a logit is |q| cos(angle), and likely to be large within a bucket."""
    length = np.sqrt((q * q).sum(axis=-1, keepdims=True) + 1e-6 * q.shape[-1])              # B, H, T, 1
    return q / length, length
def unit_length_backward(dk, k, length):
    """Stretching q does not change k, so dq has no component along k."""
    return (dk - k * (k * dk).sum(axis=-1, keepdims=True)) / length                         # B, H, T, D

def masked(S, order):
    """Hide logits S (B, H, N, C, 2C) of keys that a query must not see, by their positions in the text (eq. 3).

    It needs no backward function: a hidden logit has weight P = 0, so dS = P (dP - Δ), below, is 0 by itself. And if a
    token sees only itself, all its dP are the same, so that each equals Δ, their mean.
    """
    position = order.reshape(*S.shape[:4])                  # of the token in each slot       B, H, N, C
    query, key = position[..., :, None], look_back(position)[..., None, :]
    S = np.where(key <= query, S, -1e9)                     # a query never sees a later token,
    return np.where(key == query, -1e5, S)                  # and sees its own only if everything else is hidden

def lsh_attention(q, v, order):
    """Softmax attention within windows (eq. 2), for q, v (B, H, T, D) -> O (B, H, T, D), cache.

    A query has one window in each round, and one softmax over all of them (eq. 6). The paper takes a softmax in each
    round, exp(S - z_r) with log-sum-exp z_r, and weighs it by exp(z_r - z): the product is exp(S - z), where z is our
    m + log l. As in the authors' code, a query sees its whole window, other buckets included, and a key that it meets
    in two rounds counts twice. (The paper's eq. 4 and 16 allow neither.)
    """
    k, _ = unit_length(q)
    Q, K, V = to_slots(q, order), look_back(to_slots(k, order)), look_back(to_slots(v, order))
    S = masked(Q @ K.mT, order)                                                             # B, H, N, C, 2C
    m = to_tokens(S.max(axis=-1), order).max(axis=2)        # largest logit in all rounds     B, H, T
    P = np.exp(S - to_slots(m, order)[..., None])           # weights, not yet divided by l   B, H, N, C, 2C
    l = to_tokens(P.sum(axis=-1), order).sum(axis=2)        # sum of weights in all rounds    B, H, T
    O = to_tokens(P @ V, order).sum(axis=2) / l[..., None]                                  # B, H, T, D
    return O, (q, v, order, O, m, l)                        # we drop P, the largest array
def lsh_attention_backward(dO, cache):
    """-> dq, dv (B, H, T, D). It computes P again, from m and l, and divides it by l at once."""
    q, v, order, O, m, l = cache
    k, length = unit_length(q)
    Q, K, V = to_slots(q, order), look_back(to_slots(k, order)), look_back(to_slots(v, order))
    P = np.exp(masked(Q @ K.mT, order) - to_slots(m, order)[..., None]) / to_slots(l, order)[..., None]
    delta = to_slots((dO * O).sum(axis=-1), order)[..., None]  # Δ = dO·O = Σ P (dO·V) = Σ P dP, over a query's keys
    dO = to_slots(dO, order)                                                                # B, H, N, C, D
    dV, dP = P.mT @ dO, dO @ V.mT                           # from O = P V
    dS = P * (dP - delta)                                   # from P = softmax(S)
    dQ, dK = dS @ K, dS.mT @ Q                              # from S = Q K.mT
    dq, dk, dv = (to_tokens(x, order).sum(axis=2) for x in (dQ, look_back_backward(dK), look_back_backward(dV)))
    return dq + unit_length_backward(dk, k, length), dv     # q is the query, and the key comes from it

# ---- Section 3: the reversible Transformer ---------------------------------------------------------------------------
def layer_norm(x, scale, shift):
    """Bring each x (..., d) to mean 0 and standard deviation 1, then scale and shift it -> y, cache."""
    std = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-12)
    n = (x - x.mean(axis=-1, keepdims=True)) / std
    return n * scale + shift, (n, std, scale)
def layer_norm_backward(dy, cache):
    """-> dx, dscale, dshift. Shifting or stretching x does not change n, so dx has mean 0 and no component along n."""
    n, std, scale = cache
    dn = dy * scale
    dx = (dn - dn.mean(axis=-1, keepdims=True) - n * (dn * n).mean(axis=-1, keepdims=True)) / std
    return dx, (dy * n).sum(axis=(0, 1)), dy.sum(axis=(0, 1))

def attention(x, w, rotations=None, order=None):
    """F(x) for x (B, T, d), with weights w -> f (B, T, d), order, cache. It hashes, unless you give it an order."""
    n, norm = layer_norm(x, w["f_scale"], w["f_shift"])
    n = n[:, None]                                                                          # B, 1, T, d
    q, v = n @ w["Wqk"], n @ w["Wv"]                        # a matrix (d, D) for each head   B, H, T, D
    order = hash_and_sort(q, rotations) if order is None else order
    O, heads = lsh_attention(q, v, order)
    return (O @ w["Wo"]).sum(axis=1), order, (n, norm, O, heads)
def attention_backward(df, w, cache):
    """-> dx, dw."""
    n, norm, O, heads = cache
    df = df[:, None]                                                                        # B, 1, T, d
    dq, dv = lsh_attention_backward(df @ w["Wo"].mT, heads)
    dw = {"Wqk": (n.mT @ dq).sum(axis=0), "Wv": (n.mT @ dv).sum(axis=0), "Wo": (O.mT @ df).sum(axis=0)}
    dn = (dq @ w["Wqk"].mT + dv @ w["Wv"].mT).sum(axis=1)                                   # B, T, d
    dx, dw["f_scale"], dw["f_shift"] = layer_norm_backward(dn, norm)
    return dx, dw

def feed_forward(x, w):
    """G(x) for x (B, T, d) -> g (B, T, d), cache. Tokens don't meet, so a long text may go in chunks (eq. 10)."""
    n, norm = layer_norm(x, w["g_scale"], w["g_shift"])
    a = np.maximum(n @ w["W1"] + w["b1"], 0)                                                # B, T, d_ff
    return a @ w["W2"] + w["b2"], (n, norm, a)
def feed_forward_backward(dg, w, cache):
    """-> dx, dw."""
    n, norm, a = cache
    dh = dg @ w["W2"].mT * (a > 0)                                                          # B, T, d_ff
    dw = {"W1": (n.mT @ dh).sum(axis=0), "b1": dh.sum(axis=(0, 1))}
    dw |= {"W2": (a.mT @ dg).sum(axis=0), "b2": dg.sum(axis=(0, 1))}
    dx, dw["g_scale"], dw["g_shift"] = layer_norm_backward(dh @ w["W1"].mT, norm)
    return dx, dw

def reversible_blocks(x, blocks, rotations):
    """y1 = x1 + F(x2), y2 = x2 + G(y1), one block after another (eq. 7, 9) -> y1, y2 (B, T, d), orders."""
    y1, y2, orders = x, x, []                               # both streams start as the embedding x (B, T, d)
    for w, rotation in zip(blocks, rotations):
        f, order, _ = attention(y2, w, rotation)
        y1 = y1 + f
        y2 = y2 + feed_forward(y1, w)[0]
        orders.append(order)                                # all we keep of a block: both caches are dropped
    return y1, y2, orders
def reversible_blocks_backward(dy1, dy2, y1, y2, orders, blocks):
    """x2 = y2 - G(y1), x1 = y1 - F(x2), from the last block to the first (eq. 8) -> dx, a list of dw."""
    dblocks = []
    for w, order in zip(reversed(blocks), reversed(orders)):
        g, cache = feed_forward(y1, w)
        dx, dw_g = feed_forward_backward(dy2, w, cache)     # y2 = x2 + g, so dg = dy2
        y2, dy1 = y2 - g, dy1 + dx                          # y2 is x2 now, up to rounding. If we hashed it again,
        f, _, cache = attention(y2, w, order=order)         # a bucket might flip, and f would not be the forward's f
        dx, dw_f = attention_backward(dy1, w, cache)        # y1 = x1 + f, so df = dy1
        y1, dy2 = y1 - f, dy2 + dx                          # y1 is x1 now
        dblocks.insert(0, dw_f | dw_g)
    return dy1 + dy2, dblocks                               # both streams started as x

# ---- The whole model and its loss ------------------------------------------------------------------------------------
def reformer(tokens, params, rotations):
    """tokens (B, T) -> logits (B, T, V), cache. The parameters are those that `new_parameters` makes, below."""
    w, *blocks = params
    x = w["embedding"][tokens] + w["positions"]                                             # B, T, d
    y1, y2, orders = reversible_blocks(x, blocks, rotations)
    n, norm = layer_norm(np.concatenate([y1, y2], axis=-1), w["scale"], w["shift"])         # B, T, 2d
    return n @ w["W"] + w["b"], (tokens, y1, y2, orders, n, norm)
def reformer_backward(dlogits, params, cache):
    """-> gradients, in the form of params."""
    w, *blocks = params
    tokens, y1, y2, orders, n, norm = cache
    dw = {"W": (n.mT @ dlogits).sum(axis=0), "b": dlogits.sum(axis=(0, 1)), "embedding": np.zeros_like(w["embedding"])}
    dy, dw["scale"], dw["shift"] = layer_norm_backward(dlogits @ w["W"].mT, norm)           # B, T, 2d
    dx, dblocks = reversible_blocks_backward(*np.split(dy, 2, axis=-1), y1, y2, orders, blocks)
    dw["positions"] = dx.sum(axis=0)
    np.add.at(dw["embedding"], tokens, dx)                  # where a token occurs often, its gradients add up
    return [dw, *dblocks]

def cross_entropy(logits, targets, mask):
    """The mean of -log p(target) where the mask (B, T) is true -> loss, log p (B, T, V)."""
    log_p = logits - logits.max(axis=-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(log_p, targets[..., None], axis=-1)[mask].mean(), log_p
def cross_entropy_backward(log_p, targets, mask):
    """-> dlogits (B, T, V): softmax - one-hot, divided by the number of targets because the loss is a mean."""
    one_hot = targets[..., None] == np.arange(log_p.shape[-1])
    return (np.exp(log_p) - one_hot) * mask[..., None] / int(mask.sum())

# ---- The duplicate task (table 2) ------------------------------------------------------------------------------------
def duplicate_task(random):
    """0w0w, with w random -> tokens (B, T), targets (the next tokens), and a mask: is the target in the second w?"""
    half = np.pad(random.integers(1, V, (B, T // 2 - 1)), ((0, 0), (1, 0)))                 # B, T / 2
    tokens, mask = np.concatenate([half, half], axis=1), np.zeros((B, T), bool)
    mask[:, T // 2:-1] = True
    return tokens, np.roll(tokens, -1, axis=1), mask

def new_parameters(random):
    """A list: the weights outside the blocks, then those of each block. A matrix (n, m) has entries of size n^-1/2."""
    d, normal = D_MODEL, random.standard_normal
    w = {"embedding": 0.02 * normal((V, d)), "positions": 0.02 * normal((T, d)), "scale": np.ones(2 * d)}
    params = [w | {"shift": np.zeros(2 * d), "W": normal((2 * d, V)) * (2 * d) ** -0.5, "b": np.zeros(V)}]
    for _ in range(L):
        w = {"f_scale": np.ones(d), "f_shift": np.zeros(d), "g_scale": np.ones(d), "g_shift": np.zeros(d)}
        w |= {"Wqk": normal((H, d, D)) * d**-0.5, "Wv": normal((H, d, D)) * d**-0.5}
        w |= {"Wo": normal((H, D, d)) * (H * D) ** -0.5, "b1": np.zeros(D_FF), "b2": np.zeros(d)}
        params.append(w | {"W1": normal((d, D_FF)) * d**-0.5, "W2": normal((D_FF, d)) * D_FF**-0.5})
    return [{name: value.astype("float32") for name, value in w.items()} for w in params]

def adam(params, grads, means, squares, step, lr):
    """Update params, and the running means of gradients and of their squares, in place (Kingma and Ba, 2015)."""
    for w, dw, mean, square in zip(params, grads, means, squares):
        for name in w:
            mean[name] += (1 - 0.9) * (dw[name] - mean[name])
            square[name] += (1 - 0.999) * (dw[name] ** 2 - square[name])
            w[name] -= lr * mean[name] / (1 - 0.9**step) / (np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8)

def train(seed=0):
    """Every batch is new to the model, so the share of tokens it gets right fairly measures what it has learned."""
    random, right, start = np.random.default_rng(seed), [], time.perf_counter()
    params = new_parameters(random)
    means, squares = ([{name: np.zeros_like(w[name]) for name in w} for w in params] for _ in range(2))
    for step in range(1, STEPS + 1):
        tokens, targets, mask = duplicate_task(random)
        rotations = random.standard_normal((L, H, R, D, T // C), "float32")                 # 2 T / C buckets
        logits, cache = reformer(tokens, params, rotations)
        loss, log_p = cross_entropy(logits, targets, mask)
        grads = reformer_backward(cross_entropy_backward(log_p, targets, mask), params, cache)
        lr = LEARNING_RATE * min(1, step / WARMUP, (STEPS + 1 - step) / WARMUP)             # up, along and down
        adam(params, grads, means, squares, step, lr)
        right.append((logits.argmax(axis=-1) == targets)[mask].mean())
        if step % 5 == 0:
            seconds = time.perf_counter() - start
            print(f"{seconds:3.0f} s   step {step:3}   loss {loss:.3f}   {np.mean(right[-5:]):6.1%} right", flush=True)
    print(f"The model copies {np.mean(right[-20:]):.1%} of the tokens right.")

if __name__ == "__main__":
    train()
