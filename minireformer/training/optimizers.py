"""Adam and Adafactor, learning-rate schedules and gradient clipping.

Adam (Kingma & Ba 2015, algorithm 1) remembers two numbers for every parameter: running means of the gradient and of
its square. Adafactor (Shazeer & Stern 2018, algorithms 4 and 5), with which the Reformer was trained, keeps no mean
gradient, and only the row and column means of a matrix's squares: n + m numbers instead of 2 n m, in the spirit of a
model that cannot afford to remember.

    opt = Adam(model.params, lr=1e-3)
    opt.step(grads)                      # in place: it changes the arrays model.params[name]

Read next: `loop.py`.
"""

import math

import numpy as np

from minireformer import backend
from minireformer.backend import Array
from minireformer.checks import check_array, check_like, expect, expect_type, is_number


class Optimizer:
    """Base class of both: it holds the parameters, the learning rate, and `state`, all that a checkpoint must keep.

    `state` is a flat dict of arrays: `n_steps` (0-d, on the host) and the running means of the subclass, which defines
    `update(name, param, grad, lr, t)` to change `param` in place at step t = 1, 2, ...
    """

    def __init__(self, params: dict[str, Array], lr: float | None) -> None:
        if lr is not None:
            _check_rate("lr", lr)
        expect_type("params", params, isinstance(params, dict), "a dict such as model.params")
        for name, param in params.items():
            check_array(f"params[{name!r}]", param, ...)
        self.params, self.lr = params, lr
        self.state: dict[str, Array] = {"n_steps": np.zeros((), dtype="int64")}

    def step(self, grads: dict[str, Array], lr: float | None = None) -> None:
        """Move every parameter against its gradient in `grads`; `lr` replaces the optimizer's own this once.

        Raises ValueError or TypeError, before anything changes, unless names and shapes are those of the parameters
        and `lr` is a finite number >= 0. An update may still overflow: checking for that here would take another pass
        over all parameters.
        """
        expect_type("grads", grads, isinstance(grads, dict), "a dict with the names of the parameters")
        lr = self.lr if lr is None else check_learning_rate("lr", lr)
        check_like("grads", grads, self.params)
        self.state["n_steps"] += 1
        t = int(self.state["n_steps"])
        for name, param in self.params.items():
            self.update(name, param, grads[name], lr, t)

    def update(self, name: str, param: Array, grad: Array, lr: float | None, t: int) -> None:
        """Change `param` in place."""
        raise NotImplementedError


class Adam(Optimizer):
    """m = b1 m + (1 - b1) g,  s = b2 s + (1 - b2) g²,  p -= lr m̂ / (√ŝ + eps), with m̂ = m / (1 - b1^t) etc.

    m and s start at zero, so they are too small at first. Dividing by 1 - b^t, the sum of the weights that they have
    received so far, makes them means. `betas` = (b1, b2). State: `mean.<name>`, `square.<name>`.
    """

    def __init__(
        self, params: dict[str, Array], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, lr)
        _check_rate("lr", lr)
        is_pair = isinstance(betas, (tuple, list)) and len(betas) == 2
        fit = is_pair and all(is_number(beta) and 0 <= beta < 1 for beta in betas)
        self.betas = expect("betas", betas, fit, "two numbers in [0, 1)")
        self.eps = expect("eps", eps, is_number(eps) and eps > 0, "a number > 0")
        for name, param in params.items():
            zeros_like = backend.get_xp(param).zeros_like
            self.state |= {f"mean.{name}": zeros_like(param), f"square.{name}": zeros_like(param)}

    def update(self, name: str, param: Array, grad: Array, lr: float | None, t: int) -> None:
        xp, (b1, b2) = backend.get_xp(param), self.betas
        mean, square = self.state[f"mean.{name}"], self.state[f"square.{name}"]
        scratch = grad * (1 - b1)  # the only temporary
        mean *= b1
        mean += scratch
        xp.multiply(grad, grad, out=scratch)
        xp.sqrt(_running_mean(square, scratch, b2), out=scratch)
        scratch *= 1 / math.sqrt(1 - b2**t)
        scratch += self.eps
        xp.divide(mean, scratch, out=scratch)
        scratch *= lr / (1 - b1**t)
        param -= scratch


class Adafactor(Optimizer):
    """p -= ρ max(ε₂, rms(p)) u / max(1, rms(u)), where u = g / √ŝ and ŝ estimates the running mean of g².

    We keep only the means over rows r and over columns c of a matrix's squares; ŝ = r cᵀ / mean(r) is the non-negative
    matrix of rank one with these means that comes closest (in Kullback-Leibler divergence). Other shapes keep the
    whole ŝ. The running means look back further and further, β = 1 - t^-0.8, so there is no bias to correct. The step
    is relative to the parameter's own size, and an update larger than usual is clipped.

    `lr` is the paper's relative step ρ; None means its min(10⁻², 1/√t).
    State: `rows.<name>`, `columns.<name>` for matrices, `square.<name>` for the rest.
    """

    EPS_SQUARE = 1e-30  # ε₁: keeps 1/√ŝ finite where a gradient has always been zero
    EPS_SCALE = 1e-3  # ε₂: lets parameters that are zero move

    def __init__(self, params: dict[str, Array], lr: float | None = None) -> None:
        super().__init__(params, lr)
        for name, param in params.items():
            xp = backend.get_xp(param)
            if param.ndim == 2:
                self.state[f"rows.{name}"] = xp.zeros(param.shape[0], dtype=param.dtype)
                self.state[f"columns.{name}"] = xp.zeros(param.shape[1], dtype=param.dtype)
            else:
                self.state[f"square.{name}"] = xp.zeros_like(param)

    def update(self, name: str, param: Array, grad: Array, lr: float | None, t: int) -> None:
        xp = backend.get_xp(param)
        beta = 1 - t**-0.8
        lr = min(1e-2, 1 / math.sqrt(t)) if lr is None else lr
        update = grad * grad  # the only temporary: the squares first, then u
        update += self.EPS_SQUARE
        if param.ndim == 2:
            rows = _running_mean(self.state[f"rows.{name}"], update.mean(axis=1), beta)  # n
            columns = _running_mean(self.state[f"columns.{name}"], update.mean(axis=0), beta)  # m
            xp.divide(grad, xp.sqrt(rows / rows.mean())[:, None], out=update)  # n, m
            update /= xp.sqrt(columns)
        else:
            square = _running_mean(self.state[f"square.{name}"], update, beta)
            xp.sqrt(square, out=update)
            xp.divide(grad, update, out=update)
        update *= lr * xp.maximum(self.EPS_SCALE, _rms(param)) / xp.maximum(1.0, _rms(update))
        param -= update


def warmup_inverse_sqrt(peak, warmup):
    """The Transformer's schedule: linearly up to `peak` over `warmup` steps, then down as 1/√step."""
    peak, warmup = _check_schedule(peak, warmup)
    return lambda step: peak * min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))


def warmup_cosine(peak, warmup, steps):
    """Linearly up to `peak` over `warmup` steps, then half a cosine down to 0 at step `steps`.

    Use it when you know how long a run is: its last steps are small, and average out the noise of the batches.
    """
    peak, warmup = _check_schedule(peak, warmup)
    fits = is_number(steps) and warmup < steps < math.inf
    steps = float(expect("steps", steps, fits, f"more than warmup ({warmup:g}), and a finite number"))

    def schedule(step):
        if step < warmup:
            return peak * (step + 1) / warmup
        return peak * (1 + math.cos(math.pi * min(1, (step - warmup) / (steps - warmup)))) / 2

    return schedule


def check_learning_rate(name, lr):
    """`lr`, which may be 0 for one step, as a float; TypeError or ValueError unless it is a finite number >= 0."""
    if not is_number(lr):
        raise TypeError(f"{name}: expected a number; got {lr!r}")
    expect(name, lr, 0 <= lr < math.inf, "a finite learning rate >= 0")
    return float(lr)  # a NumPy float64 would send float32 products through float64


def clip_by_global_norm(grads, max_norm):
    """Scale all of `grads`, in place, so that the norm of all entries together is at most `max_norm`.

    -> the norm before clipping, a float (within `backend.deferred_sync`, a 0-d array). `math.inf` clips nothing.
    Gradients that are not finite stay as they are, so that you see a norm that is not finite, and can stop.
    """
    expect("max_norm", max_norm, is_number(max_norm) and max_norm > 0, "a number > 0")
    if not isinstance(grads, dict) or not grads:
        raise TypeError(f"grads: expected a dict with at least one gradient; got {grads!r}")
    for name, grad in grads.items():
        check_array(f"grads[{name!r}]", grad, ...)
    max_norm, xp = float(max_norm), backend.get_xp(next(iter(grads.values())))
    with backend.deferred_sync() as fetch:
        norm = xp.sqrt(sum(xp.vdot(grad, grad) for grad in grads.values()).astype(xp.float64))
        too_large = (norm > max_norm) & (norm < math.inf)
        if max_norm < math.inf and (xp is not np or too_large):  # a GPU scales by 1 rather than wait
            scale = max_norm / xp.where(too_large, norm, max_norm)
            for grad in grads.values():
                grad *= scale.astype(grad.dtype)
        return fetch(norm)[0]


def _running_mean(mean, new, beta):
    """mean = beta mean + (1 - beta) new, in place; -> mean. Changes `new` too."""
    new *= 1 - beta
    mean *= beta
    mean += new
    return mean


def _rms(array):
    """Root mean square, a 0-d array that stays on its device."""
    xp = backend.get_xp(array)
    return xp.sqrt(xp.vdot(array, array) / array.size)


def _check_schedule(peak, warmup):
    """Both as floats, because NumPy's small integers overflow; ValueError names the one that is out of range."""
    fits = is_number(warmup) and 1 <= warmup < math.inf
    return _check_rate("peak", peak), float(expect("warmup", warmup, fits, "a finite number of steps >= 1"))


def _check_rate(name, lr):
    """`lr` as a float; ValueError unless it is a finite number > 0."""
    return float(expect(name, lr, is_number(lr) and 0 < lr < math.inf, "a finite learning rate > 0"))
