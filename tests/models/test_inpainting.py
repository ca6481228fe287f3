"""Missing pixels, against a model whose conditional distributions are known."""

import keras
import numpy as np
import pytest

from dvpvae_tf.errors import UserError
from dvpvae_tf.evaluation.linear_gaussian import SIDE, distribution_of_images, make_linear_gaussian_model
from dvpvae_tf.models import inpainting
from dvpvae_tf.models.inpainting import inpaint

STEPS, ROWS = 3, 800
MISSING = np.zeros((SIDE, SIDE), bool)
MISSING[:, 2:] = True


@pytest.fixture(scope="module")
def known():
    """The linear-Gaussian model, its q trained a little and still wrong; one image; what is known of its right half."""
    model = make_linear_gaussian_model(STEPS)
    images_of = distribution_of_images(model, STEPS)
    train = np.clip(images_of.rvs(2000, np.random.default_rng(0)), 0, 1).reshape(-1, SIDE, SIDE, 1).astype("float32")
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(train, batch_size=200, epochs=20, verbose=0)
    image = np.clip(images_of.rvs(1, np.random.default_rng(3)), 0, 1).astype("float32")
    mask = MISSING.ravel()
    gain = np.linalg.solve(images_of.cov[np.ix_(~mask, ~mask)], images_of.cov[np.ix_(~mask, mask)]).T
    mean = images_of.mean[mask] + gain @ (image[~mask] - images_of.mean[~mask])
    covariance = images_of.cov[np.ix_(mask, mask)] - gain @ images_of.cov[np.ix_(~mask, mask)]
    return model, np.tile(image.reshape(1, SIDE, SIDE, 1), (ROWS, 1, 1, 1)), mean, covariance


def moments(filled):
    drawn = filled.images[:, MISSING, 0].astype("float64")
    return drawn.mean(axis=0), np.cov(drawn.T)


def distances(filled, mean, covariance):
    """How far the moments are off, in standard errors: the largest of the mean and of the variances."""
    found_mean, found_covariance = moments(filled)
    of_mean = np.abs(found_mean - mean) / np.sqrt(np.diag(covariance) / ROWS)
    of_variance = np.abs(np.diag(found_covariance) / np.diag(covariance) - 1) / np.sqrt(2 / ROWS)
    return of_mean.max(), of_variance.max()


@pytest.mark.slow
def test_the_weighted_draws_have_the_known_distribution_although_q_is_wrong(known):
    model, images, mean, covariance = known
    filled = inpaint(model, images, MISSING, rounds=10, chains=100, pixels="draw")
    np.testing.assert_array_equal(filled.images[:, ~MISSING], images[:, ~MISSING])
    assert max(distances(filled, mean, covariance)) < 4.5
    assert 2 < filled.effective_draws.mean() < 1000
    wrong = inpaint(model, images, MISSING, rounds=10, approximate=True, pixels="draw")
    assert max(distances(wrong, mean, covariance)) > 10


def test_what_makes_no_sense_is_refused(tiny, images):
    model = tiny(prior="standard")
    model.adapt(images(50))
    for options, message in (
        ({"images": images(1)[:0]}, "There are no images to inpaint"),
        ({"rounds": 1.5}, "rounds and chains must be whole numbers from 1 on, got 1.5 and 20"),
        ({"chains": 0}, "rounds and chains must be whole numbers from 1 on, got 20 and 0"),
        ({"pixels": "drw"}, "pixels is 'drw'"),
    ):
        with pytest.raises(ValueError, match=message):
            model.inpaint(**{"images": images(1), "missing": np.eye(8, dtype=bool)} | options)


def test_observed_pixels_stay_and_the_seed_decides_the_rest(tiny, images):
    model, data = tiny(prior="standard"), images(3)
    model.adapt(images(50))
    missing = np.zeros((8, 8), bool)
    missing[4:] = True
    filled, again, other = (model.inpaint(data, missing, rounds=1, chains=2, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(filled.images[:, ~missing], data[:, ~missing] / np.float32(255))
    drawn = filled.images[:, missing]
    assert ((drawn > 0) & (drawn < 1)).all(), "the means of a Bernoulli likelihood, not the pixels that were there"
    assert ((filled.effective_draws >= 1) & (filled.effective_draws <= 2)).all()
    for one, same, different in zip(filled, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert np.abs(one - different).max() > 1e-4


@pytest.mark.slow
def test_an_image_depends_on_the_seed_and_its_place_alone(tiny, images, monkeypatch):
    model, missing = tiny(), np.zeros((5, 8, 8), bool)
    missing[:, 4:] = missing[0, :, 4:] = True
    model.adapt(images(50))
    whole = inpaint(model, images(5), missing, rounds=2, chains=3)
    assert whole.images.shape == (5, 8, 8, 1) and (whole.effective_draws >= 1).all()
    monkeypatch.setattr(inpainting, "ROWS_AT_A_TIME", 6)
    parts = inpaint(model, images(5), missing, rounds=2, chains=3)
    np.testing.assert_allclose(parts.images, whole.images, atol=1e-5)
    binary = model.inpaint(images(5), missing, rounds=2, chains=3, pixels="draw", seed=1).images[missing]
    assert set(np.unique(binary)) <= {0.0, 1.0}
    for mask, message in (
        (missing[:3], "must be bool"),
        (missing * 1.0, "must be bool"),
        (~missing & missing, "the mask is empty"),
        (missing | (np.arange(5) == 2)[:, None, None], "covers all of an image"),
    ):
        with pytest.raises(UserError, match=message):
            inpaint(model, images(5), mask)
