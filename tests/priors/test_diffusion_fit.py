"""A diffusion prior that is trained alone: against the entropy of what it is trained on, and with a stop in between."""

import functools

import keras
import numpy as np
import pytest

from dvpvae_tf.errors import UserError
from dvpvae_tf.priors import DiffusionPrior, fit_diffusion


def new_prior(seed=0):
    keras.utils.set_random_seed(seed)
    prior = DiffusionPrior(channels=16, blocks=1, dropout=0.1 * bool(seed), clip=False)
    prior.build((None, 2, 2, 1))
    return prior


@pytest.mark.parametrize("training_steps", [0, 50])
def test_training_steps_that_make_no_whole_epochs_are_refused(training_steps):
    with pytest.raises(ValueError, match=f"must be a multiple of 20, got {training_steps}"):
        fit_diffusion(None, None, None, training_steps)


@pytest.mark.slow
def test_keras_global_policy_does_not_matter():
    u = np.random.default_rng(0).normal(size=(60, 2, 2, 1)).astype("float32")
    bounds, policy = [], keras.config.dtype_policy()
    for name in ("float32", "mixed_bfloat16"):
        prior = new_prior()
        keras.config.set_dtype_policy(name)
        try:
            fitted = fit_diffusion(prior, u[:40], u[40:], 20, batch_size=20, seed=1, verbose=0)
        finally:
            keras.config.set_dtype_policy(policy)
        bounds.append(fitted.history["val_loss"])
    np.testing.assert_allclose(bounds[1], bounds[0], rtol=1e-5)


@pytest.mark.slow
def test_the_bound_of_a_gaussian_comes_down_to_its_entropy():
    rng = np.random.default_rng(0)
    factor = 0.4 * np.eye(4) + 0.1  # correlated, with variances far above those of r(u|y_0)
    u = (rng.normal(size=(8000, 4)) @ factor.T + 0.1).astype("float32").reshape(-1, 2, 2, 1)
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * factor @ factor.T)[1]
    prior = new_prior()
    bounds = fit_diffusion(prior, u[:7000], u[7000:], 400, batch_size=100, seed=1, verbose=0).history["val_loss"]
    assert bounds[0] > bounds[-1]
    # A bound: not below, but for the error of 1,000 draws at random times.
    assert entropy - 0.3 < bounds[-1] < entropy + 1.0


@pytest.mark.slow
def test_a_fit_that_was_stopped_goes_on_to_the_same_weights(tmp_path, monkeypatch, capsys):
    """Two steps an epoch, and fewer draws than two batches, so that each epoch has another part of an order."""
    u = np.random.default_rng(0).normal(size=(250, 2, 2, 1)).astype("float32")
    fit = functools.partial(
        fit_diffusion, u=u[:150], validation_u=u[150:], training_steps=40, batch_size=100, verbose=0
    )
    expected = new_prior(seed=1)
    losses = fit(expected, seed=3).history["loss"]
    assert not list(tmp_path.iterdir())

    def stop(callback, epoch, logs=None):
        if epoch == 7:
            raise KeyboardInterrupt

    backup = tmp_path / "new.keras.backup"
    backup.write_bytes(b"no zip file")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(keras.callbacks.SwapEMAWeights, "on_epoch_begin", stop)
        fit(new_prior(seed=1), seed=3, backup=backup)
    assert f"{backup} is damaged and left out" in capsys.readouterr().out
    for changes, other_seed in (({"seed": 4}, 1), ({"u": u[:150] + 0.01}, 1), ({"batch_size": 50}, 1), ({}, 2)):
        with pytest.raises(
            UserError, match=r"new.keras.backup is the backup of a fit with another model, other images"
        ):
            fit(new_prior(other_seed), **{"seed": 3, "backup": backup} | changes)

    prior = new_prior(seed=1)
    assert fit(prior, seed=3, backup=backup, verbose=2).history["loss"] == pytest.approx(losses[7:], rel=1e-5)
    assert f"Going on after epoch 7 of 20, from {backup}" in capsys.readouterr().out
    for ours, theirs in zip(prior.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    # The last epoch is kept, too: nothing is left to train.
    again = new_prior(seed=1)
    assert not fit(again, seed=3, backup=backup).history
    for ours, theirs in zip(again.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
