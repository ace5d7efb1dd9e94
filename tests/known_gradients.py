"""Functions and a layer whose gradients are known, for the tests of `gradcheck`."""

from minireformer.layer import Layer


def square(x):
    return x * x, x


def square_backward(dout, x):
    return 2 * x * dout


def product(a, b):
    return a @ b, (a, b)


def product_backward(dout, cache):
    a, b = cache
    return dout @ b.T, a.T @ dout


class Scale(Layer):
    """y = x * weight, with a second layer inside that holds the parameter."""

    def __init__(self, weight, slip=1.0):
        super().__init__()
        self.slip = slip  # what the gradient of the weight is wrongly multiplied by
        self.params["weight"] = weight

    def forward(self, x, seed=0, training=True):
        return x * self.params["weight"], x

    def backward(self, dy, cache):
        weight = self.params["weight"]
        return dy * weight, {"weight": self.slip * (dy * cache).reshape(-1, weight.size).sum(axis=0)}
