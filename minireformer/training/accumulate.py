"""Gradient accumulation: the gradient of a large batch at the memory of a small one.

The loss is a mean over the n targets of a batch. Cut the batch into parts of n_1, n_2, ... targets, and

    loss = sum_i (n_i / n) loss_i        gradient = sum_i (n_i / n) gradient_i

So we compute one part after the other and add up. In words: a part counts as much as it has targets. Hash rotations are
those of the whole batch, and so are dropout masks (see `rng.RowSeed`), so that a batch in parts trains the same model.
The parts may also be computed by different processes. Read next: `parallel.py`.
"""

from minireformer import backend, rng
from minireformer.checks import expect
from minireformer.layer import add_to


def loss_and_grads(model, tokens, targets, mask, seed, n_parts, rank=0, n_ranks=1):
    """`model.loss_and_grads` with the rows of the batch cut into `n_parts`; -> loss, grads.

    tokens (B, T), or a pair of such arrays; targets (B, ...); mask (B, T) or None. At most one part's activations exist
    at a time, beside two sets of gradients. ValueError if there are more parts than rows.

    With several ranks, each cuts its own rows into `n_parts`, and we compute those of one `rank`: what is returned are
    its terms of the two sums, or 0 and {} if no rows are left for it.
    """
    if n_parts == n_ranks == 1:
        return model.loss_and_grads(tokens, targets, seed=seed, mask=mask)
    n_rows = len(targets)
    expect("accumulate", n_parts, n_parts <= n_rows, f"at most the batch's {n_rows} rows")
    counts = [1] * n_rows if mask is None else mask.reshape(n_rows, -1).sum(axis=1).tolist()  # targets of each row
    total = sum(counts)
    expect("mask", total, total > 0, "at least one position that is true")
    loss, grads = 0.0, {}
    for part in rows_of_parts(n_rows, n_ranks * n_parts)[rank * n_parts : (rank + 1) * n_parts]:
        weight = sum(counts[part]) / total
        if weight:  # a part without a target, or without a row, has no loss
            rows = _rows(tokens, part), _rows(targets, part)
            part_loss, part_grads = model.loss_and_grads(
                *rows, seed=rng.RowSeed(seed, part.start), mask=_rows(mask, part)
            )
            loss = loss + weight * part_loss
            add_weighted(grads, part_grads, weight)
    return loss, grads


def rows_of_parts(n_rows, n_parts):
    """Slices that cut `n_rows` into `n_parts`, whose sizes differ by one at most. Some are empty if rows are few.

    None is larger than the first, so that the memory of the first rank is the most that any rank needs.
    """
    bounds = [-(-n_rows * i // n_parts) for i in range(n_parts + 1)]
    return [slice(*pair) for pair in zip(bounds, bounds[1:])]


def add_weighted(grads, more, weight):
    """Add `weight` times the gradients `more` to `grads`, in place; `more` is used up."""
    for name in list(more):
        gradient = more.pop(name)
        gradient *= backend.get_xp(gradient).asarray(weight, gradient.dtype)
        add_to(grads, {name: gradient})


def _rows(x, part):
    """Rows of an array, of each array of a pair, or of None."""
    return None if x is None else x[part] if hasattr(x, "shape") else tuple(one[part] for one in x)
