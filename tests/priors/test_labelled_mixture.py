"""The prior over u with a mixture for each class, against SciPy's densities."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from dvpvae_tf import noise
from dvpvae_tf.errors import UserError
from dvpvae_tf.priors import FullMixturePrior, LabelledMixturePrior
from dvpvae_tf.priors.labelled_mixture import find_label

FREQUENCIES = [0.2, 0.5, 0.3]
COMPONENTS = [2, 1, 3]


def gaussians(rng, number):
    roots = rng.normal(size=(number, 4, 4)) * 0.3
    return rng.dirichlet(np.ones(number)), rng.normal(size=(number, 4)), roots @ roots.mT + 0.1 * np.eye(4)


@pytest.fixture(scope="module")
def known():
    """The prior of three classes, and the weights, means and covariances of each."""
    rng = np.random.default_rng(0)
    classes = [gaussians(rng, number) for number in COMPONENTS]
    mixtures = []
    for of_class in classes:
        mixtures.append(FullMixturePrior(len(of_class[0])))
        mixtures[-1].build((None, 2, 2, 1))
        mixtures[-1].set_gaussians(*of_class)
    return LabelledMixturePrior.join(mixtures, FREQUENCIES), classes


def log_density(u, of_class):
    parts = [np.log(w) + stats.multivariate_normal(mean, cov).logpdf(u) for w, mean, cov in zip(*of_class, strict=True)]
    return special.logsumexp(parts, axis=0)


def test_the_densities_are_those_of_scipy(known):
    prior, classes = known
    u = np.random.default_rng(1).normal(size=(7, 4))
    given = np.stack([log_density(u, of_class) for of_class in classes], axis=1)
    tensor = tf.constant(u.reshape(7, 2, 2, 1), tf.float32)
    np.testing.assert_allclose(prior.log_prob_given_labels(tensor), given, rtol=1e-4)
    np.testing.assert_allclose(
        prior.log_prob(tensor), special.logsumexp(given + np.log(FREQUENCIES), axis=1), rtol=1e-4
    )
    np.testing.assert_allclose(prior.label_log_probs(), np.log(FREQUENCIES), rtol=1e-5)


@pytest.mark.parametrize("label", range(3))
def test_samples_of_a_label_have_the_moments_of_its_mixture(known, label):
    prior, classes = known
    weights, means, covariances = classes[label]
    rows = 20_000
    drawn = noise.normal(noise.row_seeds(0, 0, 0, rows), prior.sample_noise_size())
    u = prior.sample(drawn, label=tf.constant(label)).numpy().reshape(rows, 4)
    mean = weights @ means
    centred = means - mean
    covariance = np.einsum("k,kij->ij", weights, covariances + np.einsum("ki,kj->kij", centred, centred))
    assert np.max(np.abs(u.mean(axis=0) - mean) / np.sqrt(np.diag(covariance) / rows)) < 4.5
    np.testing.assert_allclose(np.cov(u.T), covariance, atol=8 * covariance.max() / np.sqrt(rows))
    each_row = prior.sample(drawn[:9], label=tf.fill([9], label))
    np.testing.assert_array_equal(each_row.numpy().reshape(9, 4), u[:9])


def test_the_most_extreme_noise_still_falls_into_the_label(known):
    prior, classes = known
    drawn = tf.constant([[40.0, 0, 0, 0, 0], [-40.0, 0, 0, 0, 0]])  # a uniform number of 1 and one of 0
    for label, (_, means, _) in enumerate(classes):
        u = prior.sample(drawn, label=tf.constant(label)).numpy().reshape(2, 4)
        np.testing.assert_allclose(u, means[[-1, 0]], rtol=1e-5)


def test_without_a_label_it_is_the_mixture_of_all(known):
    prior, _ = known
    whole = FullMixturePrior(sum(COMPONENTS))
    whole.build((None, 2, 2, 1))
    whole.set_weights(prior.get_weights())
    drawn = noise.normal(noise.row_seeds(0, 0, 0, 50), prior.sample_noise_size())
    np.testing.assert_array_equal(prior.sample(drawn), whole.sample(drawn))


def test_a_label_is_found_by_number_or_name(known):
    prior, named = known[0], LabelledMixturePrior(COMPONENTS, ["dog", "cat", "1"])
    assert [find_label(prior, label) for label in (2, "2", np.int64(0))] == [2, 2, 0]
    assert [find_label(named, label) for label in ("cat", 1, "1", "0")] == [1, 1, 2, 0]
    assert (prior.labels, named.labels) == (["0", "1", "2"], ["0 dog", "1 cat", "2 1"])


def test_wrong_labels_are_one_line(known):
    named = LabelledMixturePrior(COMPONENTS, ["dog", "cat", "bird"])
    many = LabelledMixturePrior([1] * 100, [f"kind {number}" for number in range(100)])
    for prior, label, message in (
        (known[0], 3, "no label 3: it has 0 to 2."),
        (known[0], -1, "no label -1: it has 0 to 2."),
        (known[0], 1.0, "no label 1.0: it has 0 to 2."),
        (named, "cow", "no label 'cow': it has 0 dog, 1 cat, 2 bird."),
        (named, "brid", "no label 'brid' (did you mean bird?): it has 0 dog, 1 cat, 2 bird."),
        (many, "100", "8 kind 8, 9 kind 9 and 90 more."),
    ):
        with pytest.raises(UserError) as error:
            find_label(prior, label)
        assert str(error.value).endswith(message) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="has no labels: train --labels ends with some"):
        find_label(None, 0)


def test_it_is_rebuilt_from_its_config(known):
    prior, _ = known
    again = LabelledMixturePrior.from_config(prior.get_config())
    assert again.class_components == tuple(COMPONENTS) and again.components == sum(COMPONENTS)
    old = {key: value for key, value in prior.get_config().items() if key != "class_names"}
    assert LabelledMixturePrior.from_config(old).class_names == ()
