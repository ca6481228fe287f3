"""The VampPrior over the top latent, against SciPy and in the model that uses it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from dvpvae_tf import FusedAdamax, evaluation, noise, pictures
from dvpvae_tf.priors import VampPrior

COMPONENTS = 5


@pytest.fixture(scope="module")
def model(tiny, images):
    """A model with that prior and weights that say something."""
    model = tiny(pseudoinput="none", vamp_components=COMPONENTS)
    for index, weight in enumerate(model.trainable_variables):
        weight.assign_add(0.1 * tf.random.stateless_normal(weight.shape, (index, 0)))
    model.adapt(images(40))
    return model


def log_mixture(latents, means, log_vars):
    latents, means = np.float64(latents)[:, None], np.float64(means)
    by_component = stats.norm(means, np.exp(0.5 * np.float64(log_vars))).logpdf(latents).sum(axis=(2, 3, 4))
    return special.logsumexp(by_component, axis=1) - np.log(len(means))


@pytest.mark.parametrize("spread", [0.1, 1.0, 30.0])
def test_the_density_is_that_of_a_mixture_with_equal_weights(spread):
    rng = np.random.default_rng(0)
    latents, means = (spread * rng.normal(size=(num, 3, 3, 2)).astype("float32") for num in (20, 7))
    log_vars = rng.uniform(-10, 1, size=means.shape).astype("float32")
    log_prob = VampPrior(7).log_prob(tf.constant(latents), tf.constant(means), tf.constant(log_vars))
    assert log_prob.dtype == "float32" and log_prob.shape == (20,)
    np.testing.assert_allclose(log_prob, log_mixture(latents, means, log_vars), rtol=1e-5)


def test_components_are_chosen_equally_often():
    prior = VampPrior(4, from_data=False)
    prior.build((None, 2, 2, 1))
    prior.pseudoinputs.assign(np.broadcast_to(np.arange(4)[:, None, None, None] / 4, (4, 2, 2, 1)))
    chosen = prior.choose(tf.linspace(0.0, 1.0 - 1e-7, 4000)).numpy()
    np.testing.assert_array_equal(np.unique(chosen, return_counts=True), [[0, 0.25, 0.5, 0.75], [4 * 1000] * 4])


def test_pseudoinputs_start_as_different_training_images_or_at_random(images):
    data = images(30)
    prior = VampPrior(12)
    prior.build((None, 8, 8, 1))
    assert not prior.adapted
    for source in (data, tf.data.Dataset.from_tensor_slices((data, np.arange(30))).batch(7)):
        prior.adapt(source)
        assert prior.adapted
        pixels = (255 * prior.pseudoinputs.numpy()).round().astype("uint8")
        rows = {image.tobytes() for image in data}
        assert all(image.tobytes() in rows for image in pixels)
        assert len({image.tobytes() for image in pixels}) == len({image.tobytes() for image in data[:12]}) == 12
    first = prior.pseudoinputs.numpy()
    prior.adapt(data, seed=1)
    assert np.abs(prior.pseudoinputs - first).max() > 0.1
    with pytest.raises(ValueError, match="12 components cannot start from 11 training images"):
        prior.adapt(data[:11])

    random = VampPrior(12, from_data=False)
    random.build((None, 8, 8, 1))
    before = random.pseudoinputs.numpy()
    random.adapt(data)
    np.testing.assert_array_equal(random.pseudoinputs, before)
    assert random.adapted and stats.kstest(before.ravel(), "uniform").pvalue > 0.001


def test_the_top_kl_is_that_of_the_draw_and_the_others_are_in_closed_form(model, images):
    data = images(9)
    inference = model.infer(data, seed=2)
    # The components: the posterior of the top latent at each pseudoinput, by themselves.
    of_components = model.infer(model.top_prior.pseudoinputs.numpy(), sample=False)
    z, mean, log_var = (np.float64(part[0]) for part in (
        inference.latents, inference.posterior_means, inference.posterior_log_vars))  # fmt: skip
    of_posterior = stats.norm(mean, np.exp(0.5 * log_var)).logpdf(z).sum(axis=(1, 2, 3))
    of_prior = log_mixture(z, of_components.posterior_means[0], of_components.posterior_log_vars[0])
    np.testing.assert_allclose(inference.kl[0], of_posterior - of_prior, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(inference.log_ratio[0], of_prior - of_posterior, rtol=1e-4, atol=1e-3)
    assert np.min(inference.kl[1]) > 0
    elbo = model(data)
    assert elbo.kl_z.shape == (9, 2) and np.all(elbo.kl_u == 0)


def test_samples_come_from_the_posterior_at_a_pseudoinput(model):
    cold = model.sample(60, temperature=0.0)
    assert len(np.unique(cold.round(4), axis=0)) == COMPONENTS  # the only draw left is that of the component
    pseudoinputs = model.top_prior.pseudoinputs.numpy()
    features = model.extract_features(tf.constant(pseudoinputs))
    latent_noise = [None, *(tf.zeros((COMPONENTS, *shape)) for shape in model.top_down.latent_shapes)]
    z = model.walk(features, latent_noise).latents[0]
    expected = model.top_down(latent_noise[1:], top_features=features.by_side[2])[0]
    distances = np.abs(cold[:, None] - special.expit(expected)).max(axis=(2, 3, 4))
    assert distances.min(axis=1).max() < 1e-4
    drawn = model.generate(noise.row_seeds(0, 0, 0, 200)).images.numpy()
    assert len(np.unique(drawn.round(5), axis=0)) == 200
    assert z.shape == (COMPONENTS, 2, 2, 1)


def test_training_keeps_the_pseudoinputs_images(tiny, images):
    import keras

    model = tiny(pseudoinput="none", vamp_components=COMPONENTS)
    model.adapt(images(16))
    start = model.top_prior.pseudoinputs.numpy()
    model.compile(keras.optimizers.SGD(20.0))
    model.fit(images(16), batch_size=8, verbose=0)
    pseudoinputs = model.top_prior.pseudoinputs.numpy()
    assert np.abs(pseudoinputs - start).max() > 0
    assert pseudoinputs.min() >= 0 and pseudoinputs.max() <= 1


def test_averaged_pseudoinputs_are_images_too(tiny, images):
    """Many pixels are 0, and a step that would make them negative is clipped."""
    model = tiny(pseudoinput="none", vamp_components=COMPONENTS)
    model.adapt(images(40))
    model.compile(FusedAdamax(0.01, use_ema=True))
    model.fit(images(40), batch_size=8, epochs=2, verbose=0, callbacks=[keras.callbacks.SwapEMAWeights()])
    values = model.top_prior.pseudoinputs.numpy()
    assert values.min() >= 0 and values.max() <= 1
    model.compile(keras.optimizers.Adamax(0.01, use_ema=True))  # Keras averages before it clips
    model.fit(images(40), batch_size=8, verbose=0)
    assert model.adapted and np.isfinite(model.sample(2)).all()


def test_it_is_evaluated_whatever_the_batch_size(model, images):
    data = images(6)
    first, again = (evaluation.iwae(model, data, 5, batch_size=size, verbose=0) for size in (30, 4))
    np.testing.assert_allclose(again.estimates, first.estimates, rtol=1e-4)
    assert first.steps is None and first.kl_u == {}
    one = evaluation.iwae(model, data, 1, verbose=0)
    # At one sample the top layer's KL is the log-ratio itself; the others' differ from theirs.
    assert np.abs(one.estimates - one.negative_elbo).max() > 0
    assert evaluation.layer_statistics(model, data).kl.shape == (2,)


def test_pictures_of_it(model, images):
    rows = pictures.partial_reconstructions(model, images(3))
    assert list(rows) == ["input", "z at 2 x 2", "z at 2 x 2, 4 x 4"]
    with pytest.raises(ValueError, match="VampPrior"):
        pictures.interpolation(model, *images(2))


def test_before_adapting_it_is_refused(tiny, images):
    model = tiny(pseudoinput="none", vamp_components=COMPONENTS)
    with pytest.raises(ValueError, match="Call model.adapt"):
        model.sample(2)
