"""What tests make arrays with, on whichever backend they run: `MINIREFORMER_BACKEND` decides.

    from arrays import generator, np

`np` is the module in use, NumPy or CuPy. Random numbers are drawn on the host and then moved, so that they are the
same on both: `generator(...)` is `rng.generator(...)` whose arrays are of the backend in use, and so is
`np.random.default_rng(seed)`. `np.testing` compares arrays of either.
"""

from types import SimpleNamespace

import numpy as np

from minireformer import backend, rng


class Draw:
    """A random generator on the host, whose arrays are moved to the backend in use."""

    def __init__(self, host):
        self.host = host

    def __getattr__(self, name):
        def method(*args, **kwargs):
            drawn = getattr(self.host, name)(*args, **kwargs)
            return backend.asarray(drawn) if isinstance(drawn, np.ndarray) else drawn

        return method


class Backend:
    """The module in use, but for its random numbers."""

    random = SimpleNamespace(default_rng=lambda seed: Draw(np.random.default_rng(seed)))

    def __getattr__(self, name):
        return getattr(backend.active(), name)


def generator(seed, *labels):
    """`rng.generator`, for arrays of the backend in use."""
    return Draw(rng.generator(seed, *labels))


xp = Backend()
