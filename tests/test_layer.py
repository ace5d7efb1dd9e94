"""The checks of arguments, and arrays of two modules where all should be of one."""

import sys

import numpy as np
import pytest

import minireformer as mr
from minireformer import backend
from minireformer.attention_layer import FullAttention, LSHAttention
from minireformer.checks import check_array, check_count, check_path, check_rate, float_dtype
from minireformer.embedding import Embedding
from minireformer.feed_forward import FeedForward
from minireformer.layer_norm import LayerNorm
from minireformer.linear import Linear
from minireformer.losses import chunked_cross_entropy, softmax_cross_entropy
from minireformer.positions import LearnedPositions
from minireformer.training.optimizers import Adam

X = np.ones((1, 2, 8, 4))  # heads, or with one axis less, the input of a layer
TOKENS = np.zeros((1, 8), int)


def model():
    config = mr.ReformerConfig(vocab_size=3, d_model=4, n_heads=1, d_head=4, d_ff=4, max_len=8, axial_shape=(2, 4))
    return mr.Reformer(config)


def on_gpu(array):
    return sys.modules["cupy"].asarray(array)


@pytest.mark.parametrize(
    "name, whose, call",
    [
        ("k", "the queries", lambda: mr.full_attention(X, on_gpu(X), X)),
        ("v", "the queries", lambda: mr.local_attention(X, X, on_gpu(X), chunk_len=4)),
        ("key_mask", "the queries", lambda: mr.full_attention(X, X, X, key_mask=on_gpu(np.ones((1, 8), bool)))),
        ("buckets", "the queries", lambda: mr.lsh_attention(X, X, on_gpu(np.zeros((1, 2, 1, 8), int)), chunk_len=4)),
        ("dout", "the queries", lambda: mr.full_attention_backward(on_gpu(X), mr.full_attention(X, X, X)[1])),
        ("rotations", "x", lambda: mr.hash_vectors(X, on_gpu(np.ones((2, 4, 1, 2))))),
        ("x", "the parameters", lambda: Linear(4, 4, seed=0)(on_gpu(X))),
        ("dy", "the parameters", lambda: Linear(4, 4, seed=0).backward(on_gpu(X), Linear(4, 4, seed=0).forward(X)[1])),
        ("x", "the parameters", lambda: LayerNorm(4)(on_gpu(X))),
        ("x", "the parameters", lambda: FeedForward(4, 4, seed=0)(on_gpu(X))),
        ("x", "the parameters", lambda: FullAttention(4, 1, 4)(on_gpu(X[0]))),
        ("x", "the parameters", lambda: LSHAttention(4, 1, 4, chunk_len=4)(on_gpu(X[0]))),
        ("x", "the parameters", lambda: LearnedPositions(8, 4)(on_gpu(X[0]))),
        ("tokens", "the parameters", lambda: Embedding(3, 4, seed=0)(on_gpu(TOKENS))),
        ("tokens", "the parameters", lambda: model()(on_gpu(TOKENS))),
        ("key_mask", "the parameters", lambda: model()(TOKENS, key_mask=on_gpu(TOKENS > 0))),
        ("targets", "the parameters", lambda: model().loss_and_grads(TOKENS, on_gpu(TOKENS))),
        ("mask", "the parameters", lambda: model().loss_and_grads(TOKENS, TOKENS, mask=on_gpu(TOKENS > 0))),
        ("targets", "the logits", lambda: softmax_cross_entropy(X[0, 0], on_gpu(TOKENS[0]))),
        ("features", "the parameters", lambda: chunked_cross_entropy(on_gpu(X[0]), X[0, 0], None, TOKENS)),
        (r"grads\['a'\]", "the parameters", lambda: Adam({"a": X}).step({"a": on_gpu(X)})),
        (
            r"params\['weight'\]",
            "the parameters",
            lambda: Embedding(8, 4, seed=0).load_params({"weight": on_gpu(X[0, 0])}),
        ),
    ],
)
def test_an_array_of_the_other_module_is_named(cupy, name, whose, call):
    backend.use("numpy")
    with pytest.raises(TypeError, match=f"^{name}: expected a numpy array, like {whose}; got a cupy one$"):
        call()


def test_the_first_array_decides(cupy):
    with pytest.raises(TypeError, match="^k: expected a cupy array, like the queries; got a numpy one$"):
        mr.full_attention(on_gpu(X), X, X)


def test_parameters_to_load_are_arrays_in_a_dict():
    layer = LayerNorm(2)
    with pytest.raises(TypeError, match=r"params\['weight'\]: expected a NumPy or CuPy array; got list"):
        layer.load_params({"weight": [1.0, 1.0], "bias": np.ones(2)})
    with pytest.raises(TypeError, match="values: expected a dict such as params; got list"):
        layer.load_params([np.ones(2)])
    assert not layer.params["bias"].any()


def test_only_the_two_dtypes_are_floats():
    for dtype in ("float16", "longdouble", "complex64"):
        with pytest.raises(TypeError, match="x: expected floats .float32 or float64.; got dtype"):
            check_array("x", np.ones(3, dtype), 3)
    for dtype in ("float16", "int32", "text", None, 5):
        with pytest.raises(ValueError, match="dtype: expected float32 or float64; got"):
            float_dtype(dtype)
    assert float_dtype(np.float32) == "float32"


def test_counts_and_rates_may_be_numpys():
    assert type(check_count("n", np.int64(3))) is int
    check_rate("dropout", np.float32(0.5))
    for rate in (True, None, "0.1", 1, -0.1, np.nan, 0.5j):
        with pytest.raises(ValueError, match=r"dropout: expected a rate in \[0, 1\); got"):
            check_rate("dropout", rate)


def test_paths_are_text_or_paths():
    assert check_path("path", "a").name == "a"
    for path in (None, 5, b"a"):
        with pytest.raises(TypeError, match="path: expected a path; got"):
            check_path("path", path)


def test_bad_arguments_of_gradcheck_are_named():
    layer, x = LayerNorm(4), X
    with pytest.raises(ValueError, match="step: expected a number > 0; got 0"):
        mr.gradcheck(layer, x, step=0)
    with pytest.raises(ValueError, match="n_directions: expected an integer >= 1; got 0"):
        mr.gradcheck(layer, x, n_directions=0)
    with pytest.raises(TypeError, match="x: expected a NumPy or CuPy array; got NoneType"):
        mr.gradcheck(layer, None)
    with pytest.raises(TypeError, match="target: expected a Layer or a pair"):
        mr.gradcheck(None, x)
