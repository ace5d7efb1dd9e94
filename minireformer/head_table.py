"""Heads as the rows of a table: how a head's tokens are found in memory without copying the head.

Projections leave heads as (B, T, H, D) in memory; other callers have them as (B, H, T, D). Read next: `scratch.py`.
"""

from minireformer import backend


class HeadTable:
    """Heads (B, H, T, D) as a table (B H T, D) with a row for each token of each head, whichever way they lie."""

    def __init__(self, heads):
        self.xp, self.dtype, self.shape, self.d_head = (
            backend.get_xp(heads),
            heads.dtype,
            heads.shape[:3],
            heads.shape[3],
        )
        self.by_token = heads.strides[1] < heads.strides[2]  # (B, T, H, D)

    def table(self, heads):
        """heads (B, H, T, ...) as a table. Copies only what lies otherwise than the heads of `__init__`."""
        heads = heads.swapaxes(1, 2) if self.by_token else heads
        return self.xp.ascontiguousarray(heads).reshape(-1, *heads.shape[3:])

    def heads(self, table):
        """A table as heads (B, H, T, ...), a view."""
        n_batch, n_heads, length = self.shape
        if self.by_token:
            return table.reshape(n_batch, length, n_heads, *table.shape[1:]).swapaxes(1, 2)
        return table.reshape(*self.shape, *table.shape[1:])

    def rows(self, heads, tokens):
        """The rows of tokens (g, n), or (1, n), of each of g heads: `heads` is the range of their numbers, b H + h."""
        _, n_heads, length = self.shape
        head = self.xp.arange(heads.start, heads.stop)[:, None]
        if self.by_token:
            return tokens * n_heads + (head // n_heads * (length * n_heads) + head % n_heads)
        return tokens + head * length

    def all_rows(self, heads):
        """The rows of all tokens of one head, or of all heads, as a slice."""
        if len(heads) > 1:
            return slice(None)
        _, n_heads, length = self.shape
        batch, head = divmod(heads.start, n_heads)
        if self.by_token:
            return slice(batch * length * n_heads + head, (batch + 1) * length * n_heads, n_heads)
        return slice(heads.start * length, (heads.start + 1) * length)
