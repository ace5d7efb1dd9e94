"""A batch in parts is the same batch: loss, gradients, training, and the memory of one part."""

import numpy as np
import pytest

import minireformer as mr
from arrays import xp
from minireformer import rng
from minireformer.dropout import Dropout
from minireformer.tools import memory
from minireformer.training.accumulate import loss_and_grads, rows_of_parts

DROPOUT = {"dropout": 0.3, "attention_dropout": 0.2}  # masks of a row don't depend on the part it is in


def batch_of(n_rows=5, length=14, masked=False, seed=0):
    draws = np.random.default_rng(seed)
    tokens, targets = (xp.asarray(draws.integers(0, 11, (n_rows, length))) for _ in range(2))
    mask = xp.asarray(draws.random((n_rows, length)) < 0.3)
    mask[1] = False  # a part may have no target at all
    return (tokens, targets, mask) if masked else (tokens, targets, None)


def assert_same(found, expected):
    assert abs(float(found[0]) - float(expected[0])) < 1e-12
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        error = abs(found[1][name] - gradient).max() / max(float(abs(gradient).max()), 1e-3)
        assert error < 1e-12, name


@pytest.mark.parametrize(
    "n_parts, masked, dropout", [(2, False, {}), (3, True, {}), (2, False, DROPOUT), (5, True, DROPOUT)]
)
def test_parts_have_the_gradient_of_the_whole_batch(n_parts, masked, dropout, tiny_model):
    model = tiny_model(**{"dropout": 0.0, "attention_dropout": 0.0, **dropout})
    tokens, targets, mask = batch_of(masked=masked)
    whole = model.loss_and_grads(tokens, targets, seed=3, mask=mask)
    assert_same(loss_and_grads(model, tokens, targets, mask, 3, n_parts), whole)


def test_pairs_of_a_translator_are_cut_as_well(tiny_model):
    model = tiny_model(pairs=True, **DROPOUT)
    tokens, targets, mask = batch_of(masked=True)
    pair = tokens[:, :9] % 9, tokens
    whole = model.loss_and_grads(pair, targets, seed=3, mask=mask)
    assert_same(loss_and_grads(model, pair, targets, mask, 3, 2), whole)


def test_labels_of_whole_sequences_are_cut_as_well(tiny_model):
    model = tiny_model(head="sequence", causal=False, head_dropout=0.4, **DROPOUT)
    tokens = batch_of()[0]
    labels = tokens[:, 0] % 2
    assert_same(loss_and_grads(model, tokens, labels, None, 3, 3), model.loss_and_grads(tokens, labels, seed=3))


def test_rows_keep_their_dropout_mask_in_a_part():
    x = xp.ones((6, 7, 3))
    whole, _ = Dropout(0.5).forward(x, seed=9)
    part, cache = Dropout(0.5).forward(x[2:5], seed=rng.RowSeed(9, first_row=2))
    xp.testing.assert_array_equal(part, whole[2:5])
    dx, _ = Dropout(0.5).backward(x[2:5], cache)
    xp.testing.assert_array_equal(dx, whole[2:5])
    assert rng.fold(rng.RowSeed(9, 2), "a") == rng.fold(9, "a") and rng.first_row(rng.fold(rng.RowSeed(9, 2), "a")) == 2


def test_parts_cover_all_rows_and_their_sizes_differ_by_one_at_most():
    for n_rows in range(1, 12):
        for n_parts in range(1, n_rows + 1):
            parts = rows_of_parts(n_rows, n_parts)
            assert [row for part in parts for row in range(n_rows)[part]] == list(range(n_rows))
            sizes = [part.stop - part.start for part in parts]
            assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1


def trained(tiny_model, accumulate, steps=4, **kwargs):
    model = tiny_model(**DROPOUT)
    opt = mr.Adam(model.params, lr=1e-2)
    log = mr.train(
        model,
        lambda step: batch_of(seed=step, masked=True),
        opt,
        steps,
        clip=0.5,
        log_every=1,
        progress=False,
        accumulate=accumulate,
        **kwargs,
    )
    return model, log


def test_training_in_parts_clips_logs_and_resumes_whole_steps(tiny_model, tmp_path):
    whole, whole_log = trained(tiny_model, 1)
    path = tmp_path / "run.safetensors"
    trained(tiny_model, 3, steps=3, checkpoint=path)
    parts, log = trained(tiny_model, 2, checkpoint=path)  # resumed at step 3, in other parts
    for name, param in whole.params.items():
        assert abs(parts.params[name] - param).max() < 1e-10, name
    for row, expected in zip(log, whole_log, strict=True):
        assert row["step"] == expected["step"]
        assert abs(row["loss"] - expected["loss"]) < 1e-10 and abs(row["grad_norm"] - expected["grad_norm"]) < 1e-10


def test_peak_is_that_of_one_part(tiny_model):
    model = tiny_model()
    tokens, targets, _ = batch_of(n_rows=32, length=32)
    peaks = []
    for n_parts, n_rows in ((1, 32), (16, 32), (1, 2)):
        with memory.peak() as peak:
            loss_and_grads(model, tokens[:n_rows], targets[:n_rows], None, 0, n_parts)
        peaks.append(peak.bytes)
    gradients = memory.nbytes(model.params)
    # Of a part and of the sum. How much of their work threads do at the same time differs from run to run.
    assert peaks[1] < 1.5 * peaks[2] + 2 * gradients < peaks[0] / 3, peaks


def test_bad_arguments_are_named(tiny_model):
    model = tiny_model()
    opt = mr.Adam(model.params)
    for bad in (0, 1.5, True, "2"):
        with pytest.raises(ValueError, match="accumulate: expected an integer >= 1"):
            mr.train(model, lambda step: batch_of()[:2], opt, 1, accumulate=bad, progress=False)
    with pytest.raises(ValueError, match="accumulate: expected at most the batch's 5 rows; got 6"):
        mr.train(model, lambda step: batch_of()[:2], opt, 1, accumulate=6, progress=False)
    tokens, targets, mask = batch_of(masked=True)
    with pytest.raises(ValueError, match="mask: expected at least one position that is true"):
        mr.train(model, lambda step: (tokens, targets, mask & False), opt, 1, accumulate=2, progress=False)
