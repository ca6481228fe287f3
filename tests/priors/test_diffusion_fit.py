"""A diffusion prior that is trained alone, against the entropy of what it is trained on."""

import keras
import numpy as np
import pytest

from dvpvae_tf.priors import DiffusionPrior, fit_diffusion


@pytest.mark.slow
def test_the_bound_of_a_gaussian_comes_down_to_its_entropy():
    rng = np.random.default_rng(0)
    factor = 0.4 * np.eye(4) + 0.1  # correlated, with variances far above those of r(u|y_0)
    u = (rng.normal(size=(8000, 4)) @ factor.T + 0.1).astype("float32").reshape(-1, 2, 2, 1)
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * factor @ factor.T)[1]
    keras.utils.set_random_seed(0)
    prior = DiffusionPrior(channels=16, blocks=1, clip=False)
    prior.build((None, 2, 2, 1))
    bounds = fit_diffusion(prior, u[:7000], u[7000:], steps=400, batch_size=100, seed=1, verbose=0).history["val_loss"]
    assert bounds[0] > bounds[-1]
    # A bound: not below, but for the error of 1,000 draws at random times.
    assert entropy - 0.3 < bounds[-1] < entropy + 1.0
