"""Latents out of images, and images out of latents."""

import numpy as np
import pytest
import tensorflow as tf

from dvpvae_tf.models import Latents
from dvpvae_tf.models.refit import with_prior
from dvpvae_tf.models.sampling import sample_in_batches
from dvpvae_tf.priors import FullMixturePrior, LabelledMixturePrior


@pytest.fixture(scope="module")
def model(lively):
    return lively()


@pytest.fixture(scope="module")
def ladder(lively):
    return lively(pseudoinput="none")


def flat(latents):
    return [latents.u, *latents.z]


@pytest.mark.parametrize("kind", ["model", "ladder"])
def test_decoding_the_means_gives_the_reconstruction(kind, images, request):
    model, data = request.getfixturevalue(kind), images(7)
    latents = model.encode(data, batch_size=3)
    assert (latents.u is None) == (kind == "ladder")
    assert [z.shape for z in latents.z] == [(7, 2, 2, 1), (7, 4, 4, 1)]
    np.testing.assert_allclose(model.decode(latents, batch_size=4), model.reconstruct(data), atol=1e-5)


def test_of_colour_pixels_it_gives_the_mean_of_the_likelihood(lively, images):
    model = lively(3, image_channels=3, likelihood="discretized_logistic_mixture", latent_channels=2)
    data = images(4, channels=3)
    latents = model.encode(data)
    expected = model.likelihood.mean_images(model.infer(data, sample=False).likelihood_params)
    np.testing.assert_allclose(model.decode(latents), expected, atol=1e-5)
    drawn = model.decode(latents, pixels="draw")
    np.testing.assert_allclose(255 * drawn, np.round(255 * drawn), atol=1e-3)


@pytest.mark.parametrize("sample", [False, True])
def test_latents_are_those_that_infer_gives_whatever_the_batch(model, images, sample):
    data = images(7)
    inference = model.infer(data, sample=sample, seed=3)
    expected = [inference.pseudoinput, *inference.latents]
    pairs = tf.data.Dataset.from_tensor_slices((data, np.arange(7))).batch(2)
    for found in (model.encode(data, sample, 3, batch_size=4), model.encode(pairs, sample, 3)):
        for one, other in zip(flat(found), expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_what_is_left_out_is_drawn_as_samples_are_whatever_the_batch(model, images):
    rows = Latents(model.encode(images(5)).u)
    decoded = model.decode(rows, seed=2, pixels="draw")
    first = model.sample(2, seed=2, pseudoinput=rows.u[0])[0]
    np.testing.assert_allclose(decoded[0], first, atol=1e-5)
    np.testing.assert_allclose(model.decode(rows, seed=2, batch_size=2), decoded, atol=1e-5)
    assert np.abs(model.decode(rows, seed=3) - decoded).max() > 0.01


def test_a_given_top_layer_changes_only_what_is_below_it(model, images):
    latents = model.encode(images(3))
    all_but_bottom, changed = latents.z[:1], latents.z[0] + 1.0
    same = model.decode(Latents(latents.u, [*all_but_bottom, None]), temperature=0.0)
    np.testing.assert_array_equal(model.decode(Latents(latents.u, all_but_bottom), temperature=0.0), same)
    assert np.abs(model.decode(Latents(latents.u, [changed]), temperature=0.0) - same).max() > 1e-3
    # By hand: the prior's mean of the layer below.
    condition = model.pseudoinput.decode(latents.u)
    noise = [tf.zeros_like(z) for z in latents.z]
    parameters, steps = model.top_down(noise, condition, latents=all_but_bottom)
    np.testing.assert_allclose(same, model.likelihood.mean_images(parameters), atol=1e-5)
    np.testing.assert_array_equal(steps[0].latent, latents.z[0])
    np.testing.assert_array_equal(steps[1].latent, steps[1].prior_mean)


def test_samples_of_one_pseudoinput_share_it(model, images):
    u = model.encode(images(1)).u[0]
    drawn = model.sample_with_pseudoinputs(4, pseudoinput=u)
    np.testing.assert_allclose(drawn.pseudoinputs, np.repeat(model.pseudoinput.decode(u[None]), 4, axis=0), atol=1e-5)
    assert len(np.unique(drawn.images.round(4), axis=0)) == 4


def test_samples_of_a_label_are_the_same_whatever_the_batch(model):
    mixtures = []
    for means in ([-0.5, 0.1], [0.9]):
        mixtures.append(FullMixturePrior(len(means)))
        mixtures[-1].build((None, 3, 3, 1))
        weights, covariances = np.full(len(means), 1 / len(means)), [1e-10 * np.eye(9)] * len(means)
        mixtures[-1].set_gaussians(weights, np.outer(means, np.ones(9)), covariances)
    model = with_prior(model, LabelledMixturePrior.join(mixtures, [0.5, 0.5]))
    for label, means in ((0, [-0.5, 0.1]), (1, [0.9])):
        drawn = model.sample_with_pseudoinputs(7, seed=3, label=label)
        classes = model.pseudoinput.decode(tf.reshape(means, [-1, 1, 1, 1]) * tf.ones([1, 3, 3, 1])).numpy()
        distances = np.abs(drawn.pseudoinputs[:, np.newaxis] - classes).max(axis=(2, 3, 4))
        assert (distances.min(axis=1) < 1e-3).all() and (distances.min(axis=0) < 1e-3).all()
        for batch_size in (2, 3):
            batches = [*sample_in_batches(model, 7, seed=3, batch_size=batch_size, label=label)]
            assert [len(batch.images) for batch in batches] == [batch_size] * (7 // batch_size) + [1]
            for part, whole in zip(zip(*batches, strict=True), drawn, strict=True):
                np.testing.assert_allclose(np.concatenate(part), whole, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda latents: Latents(), "Give u or at least one z"),
        (lambda latents: Latents(latents.u[..., 0]), r"takes u \[N, 3, 3, 1\], got \(2, 3, 3\)"),
        (lambda latents: Latents(z=[latents.z[1]]), r"takes z of layer 0 \[N, 2, 2, 1\], got \(2, 4, 4, 1\)"),
        (lambda latents: Latents(latents.u[:1], latents.z), "one number of rows"),
        (lambda latents: Latents(z=[*latents.z, None]), "has 2 layers, but there are 3 z"),
        (lambda latents: Latents(latents.u * np.nan), "u must be finite"),
    ],
)
def test_latents_that_do_not_fit_are_refused_in_one_line(model, images, make, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        model.decode(make(model.encode(images(2))))
    assert "\n" not in str(caught.value)


def test_no_images_and_a_pseudoinput_of_the_ladder_vae_are_refused(model, ladder, images):
    with pytest.raises(ValueError, match="no images to encode"):
        model.encode(images(1)[:0])
    with pytest.raises(ValueError, match="no pseudoinputs: leave out u"):
        ladder.decode(Latents(np.zeros([1, 3, 3, 1])))
    with pytest.raises(ValueError, match="has no labels"):
        model.sample(1, label=0)
