"""The heads of a Reformer that label a sequence or find an answer in it: gradients, losses, bad input."""

import pytest

import minireformer as mr
from arrays import xp
from minireformer.heads import SequenceHead

SETTINGS = {"causal": False, "activation": "gelu", "dropout": 0.1, "attention_dropout": 0.1}
tokens = xp.random.default_rng(0).integers(0, 11, (3, 18))
LABELS = {"sequence": xp.array([2, 0, 1]), "span": xp.array([[0, 17], [3, 3], [9, 2]])}


@pytest.fixture
def headed(tiny_config):
    """`headed(head, **changes)`: a tiny model with this head."""
    return lambda head, **changes: mr.Reformer(
        tiny_config(head=head, n_labels=3, **SETTINGS | changes), dtype="float64"
    )


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_gradients_of_the_sequence_head(assert_gradients, rate):
    features = xp.random.default_rng(1).standard_normal((2, 3, 8))
    assert_gradients(SequenceHead(4, 3, seed=0, dropout=rate, dtype="float64"), features)


@pytest.mark.parametrize("head", ["sequence", "span"])
def test_gradients_of_a_model_with_another_head(assert_gradients, head, headed):
    model = headed(head, attn_layers=("local",))  # the layers below are checked in test_model.py
    assert_gradients(model, tokens[:1, :9], name=f"Reformer, {head} head")


@pytest.mark.parametrize("head", ["sequence", "span"])
def test_gradients_of_the_loss(assert_gradients, head, headed):
    logits = xp.random.default_rng(2).standard_normal((3, 3) if head == "sequence" else (3, 18, 2))
    the_head = headed(head).head

    def loss(logits):
        value, dlogits = the_head.loss(logits, LABELS[head])
        return xp.asarray(value)[None], dlogits

    assert_gradients((loss, lambda dloss, dlogits: dloss * dlogits), logits, name=f"loss, {head}")


@pytest.mark.parametrize("head", ["sequence", "span"])
def test_loss_and_grads_are_those_of_the_logits(head, headed):
    model = headed(head, dropout=0.0, attention_dropout=0.0)
    logits, cache = model.forward(tokens, seed=4)
    log_p = logits - xp.log(xp.exp(logits).sum(axis=1, keepdims=True))  # over labels, or over positions
    if head == "sequence":
        expected = -log_p[xp.arange(3), LABELS[head]].mean()
    else:
        rows = xp.arange(3)
        expected = -(log_p[rows, LABELS[head][:, 0], 0] + log_p[rows, LABELS[head][:, 1], 1]).mean() / 2
    loss, grads = model.loss_and_grads(tokens, LABELS[head], seed=4)
    assert abs(loss - float(expected)) < 1e-12  # rounding of a few dozen logits
    assert list(grads) == list(model.params)
    exact = model.backward(model.head.loss(logits, LABELS[head])[1], cache)[1]
    for name in grads:
        xp.testing.assert_array_equal(grads[name], exact[name])


def test_the_sequence_head_reads_the_first_token_alone():
    head = SequenceHead(4, 3, seed=0, dtype="float64")
    features = xp.random.default_rng(1).standard_normal((2, 5, 8))
    _, cache = head.forward(features)
    dfeatures, _ = head.backward(xp.ones((2, 3)), cache)
    assert (dfeatures[:, 0] != 0).all() and (dfeatures[:, 1:] == 0).all()


def test_the_sequence_head_may_have_a_dropout_of_its_own(headed):
    assert headed("sequence", head_dropout=0.0).head.dropout.rate == 0
    assert headed("sequence").head.dropout.rate == SETTINGS["dropout"]


@pytest.mark.parametrize("head", ["sequence", "span"])
def test_it_is_saved_and_loaded(tmp_path, head, headed):
    model = headed(head)
    model.save(tmp_path / "model.safetensors")
    loaded = mr.Reformer.load(tmp_path / "model.safetensors")
    xp.testing.assert_array_equal(loaded(tokens, seed=3), model(tokens, seed=3))


@pytest.mark.parametrize(
    "head, targets, message",
    [
        ("sequence", xp.array([0, 1]), r"targets: expected shape \(3,\); got \(2,\)"),
        ("sequence", xp.array([0, 1, 3]), "targets: expected"),
        ("span", xp.array([[0, 1]] * 2), r"targets: expected shape \(3, 2\); got \(2, 2\)"),
        ("span", xp.array([[0, 18]] * 3), "targets: expected"),
    ],
)
def test_bad_labels_are_named(head, targets, message, headed):
    with pytest.raises(ValueError, match=message):
        headed(head).loss_and_grads(tokens, targets)


def test_what_belongs_to_a_model_of_tokens_is_refused(headed, tiny_config):
    model = headed("sequence", causal=True)
    with pytest.raises(ValueError, match="mask: expected None, as the head is 'sequence'"):
        model.loss_and_grads(tokens, LABELS["sequence"], mask=xp.ones((3, 18), bool))
    with pytest.raises(ValueError, match="model: expected one that predicts tokens; the head of this one"):
        mr.generate(model, [1, 2], 3)
    with pytest.raises(ValueError, match="head: expected one of tokens, sequence, span; got 'lm'"):
        tiny_config(head="lm")
    with pytest.raises(ValueError, match=r"head_dropout: expected a rate in \[0, 1\); got 1"):
        tiny_config(head_dropout=1)
    with pytest.raises(ValueError, match="n_labels: expected an integer >= 1; got 0"):
        tiny_config(n_labels=0)
