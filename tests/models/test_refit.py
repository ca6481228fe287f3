"""Methods change their model, the functions `with_...` return another; both take arrays and data sets."""

import numpy as np
import pytest
import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.errors import UserError
from dvpvae_tf.models import refit, with_ancestral_process, with_diffusion_prior, with_full_mixture
from dvpvae_tf.priors import DiffusionPrior


@pytest.fixture(scope="module")
def trained(tiny, images):
    model = tiny()
    model.adapt(images(64))
    return model


def as_pairs(images):
    """The images as a data set of batches of images and labels, the last batch smaller."""
    return tf.data.Dataset.from_tensor_slices((images, np.zeros(len(images), int))).batch(7)


def test_calibration_changes_the_model_and_takes_data_sets_as_well(trained, images):
    training, validation = images(20, seed=1), images(10, seed=2)
    models = [refit.with_prior(trained, trained.prior) for _ in range(2)]
    found = [
        model.calibrate(*splits, steps=2, draws=40)
        for model, splits in zip(
            models, ((training, validation), (as_pairs(training), as_pairs(validation))), strict=True
        )
    ]
    np.testing.assert_array_equal(found[0].covariances, found[1].covariances)
    assert [model.prior.process_name for model in (trained, *models)] == ["ancestral", "calibrated", "calibrated"]
    original = with_ancestral_process(models[0])
    assert models[0].prior.process_name == "calibrated" and original.prior.process_name == "ancestral"
    np.testing.assert_array_equal(original.sample(2, steps=3), trained.sample(2, steps=3))
    with pytest.raises(ValueError, match="There are no images"):
        models[0].calibrate(as_pairs(training).take(0))


def test_a_calibration_needs_images_draws_and_steps(trained, images):
    for arguments, options, message in (
        ([images(1)], {}, "Give at least 2 images, or other images as validation"),
        ([images(1)[:0]], {}, "There are no images"),
        ([images(8), images(1)[:0]], {}, "There are no images"),
        ([images(8)], {"draws": 1}, "at least 2 draws, got 1"),
        ([images(8)], {"steps": 0}, "a whole number of steps from 1 on, not 0"),
        ([images(8)], {"steps": 2.5}, "a whole number of steps from 1 on, not 2.5"),
        ([images(8)], {"steps": 101}, "takes 100 steps at most, not 101"),
    ):
        with pytest.raises(ValueError, match=message):
            trained.calibrate(*arguments, **options)
    assert trained.process_name == "ancestral"
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        DiffusionPrior(steps=0)


def test_a_mixture_is_for_another_model_and_takes_data_sets_as_well(trained, images, monkeypatch):
    monkeypatch.setattr(refit, "FEWEST_DRAWS", (64, 8))
    training, validation = images(40, seed=1), images(10, seed=2)
    one, other = (
        with_full_mixture(trained, *splits, verbose=0)
        for splits in ((training, validation), (as_pairs(training), as_pairs(validation)))
    )
    np.testing.assert_array_equal(one.prior.means, other.prior.means)
    assert trained.prior.process_name == "ancestral" and one.prior.process_name is None


def test_a_trained_diffusion_prior_that_cannot_be_calibrated_is_an_error(trained, images, monkeypatch):

    def diverge(prior, *_, **__):
        prior.set_weights([np.nan * weight for weight in prior.get_weights()])

    monkeypatch.setattr(refit, "FEWEST_DRAWS", (8, 8))
    monkeypatch.setattr(refit, "fit_diffusion", diverge)
    with pytest.raises(
        UserError, match="cannot be calibrated: its errors are not finite, or have no positive definite"
    ):
        with_diffusion_prior(trained, images(8), images(8, seed=1), verbose=0)
    with pytest.raises(UserError, match="takes 100 steps at most, not 500"):
        with_diffusion_prior(trained, images(8), images(8, seed=1), steps=500)


def test_draws_to_fit_share_no_noise_with_other_draws(trained, images, monkeypatch):
    """Neither those of training and validation images of two seeds with one another, nor any with y_t."""
    drawn, row_seeds = [], noise.row_seeds

    def record(*arguments):
        drawn.append(row_seeds(*arguments).numpy())
        return tf.constant(drawn[-1])

    monkeypatch.setattr(noise, "row_seeds", record)
    model = refit.with_prior(trained, trained.prior)
    for seed in (0, 1):
        model.calibrate(images(6), images(6, seed=1), steps=2, draws=12, seed=seed)
    keys = {tuple(key) for seeds in drawn for key in seeds}
    assert len(drawn) == 8 and len(keys) == sum(map(len, drawn))
