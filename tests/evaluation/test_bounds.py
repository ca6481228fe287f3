"""Bounds against a model whose log p(x) is known, and what an evaluation reports."""

import gc
import itertools
import json
import math
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from dvpvae_tf import DVPVAE, evaluation, noise
from dvpvae_tf.evaluation.evaluator import Evaluator
from dvpvae_tf.evaluation.layer_statistics import ACTIVE_UNIT_THRESHOLD
from dvpvae_tf.evaluation.linear_gaussian import (
    SIDE,
    distribution_given_pseudoinputs,
    distribution_of_images,
    make_linear_gaussian_model,
)
from dvpvae_tf.evaluation.results import plus_minus
from dvpvae_tf.models import refit
from dvpvae_tf.priors import covariances, fit_full_mixture
from dvpvae_tf.priors.process import GRID_TIMES

STEPS = 10


def approx(value):
    return pytest.approx(float(value), rel=1e-5)


@pytest.fixture(scope="module")
def known():
    """The linear-Gaussian model with trained posteriors, 200 images of its own and -log p(x) of each."""
    model = make_linear_gaussian_model(STEPS)
    images_of = distribution_of_images(model, STEPS)
    rng = np.random.default_rng(0)
    train, test = (np.clip(images_of.rvs(num, rng), 0, 1).reshape(-1, SIDE, SIDE, 1) for num in (2000, 200))
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(train.astype("float32"), batch_size=200, epochs=40, verbose=0)
    test = test.astype("float32")
    return model, test, -images_of.logpdf(test.reshape(len(test), -1))


def gap(evaluation, exact):
    """Mean and standard error over the images of what the estimates exceed -log p(x) by."""
    difference = evaluation.estimates - exact
    return difference.mean(), difference.std(ddof=1) / len(difference) ** 0.5


# Known answers


def test_the_known_distribution_is_that_of_what_the_model_generates():
    model = make_linear_gaussian_model(STEPS)
    rows = 40_000
    means = model.generate(noise.row_seeds(0, 0, 0, rows)).images.numpy().reshape(rows, -1)
    expected = distribution_of_images(model, STEPS)
    error = np.sqrt(np.diag(expected.cov) / rows)
    assert np.max(np.abs(means.mean(axis=0) - expected.mean) / error) < 5
    covariance = np.cov(means.T) + model.likelihood.deviation**2 * np.eye(SIDE**2)
    np.testing.assert_allclose(covariance, expected.cov, atol=6 * expected.cov.max() * np.sqrt(2 / rows))


def test_the_importance_weighted_bound_falls_to_minus_log_p(known):
    model, images, exact = known
    gaps = [gap(evaluation.iwae(model, images, k, batch_size=2000, verbose=0), exact) for k in (1, 8, 64, 512)]
    for (mean, error), (_, next_error) in zip(gaps, [*gaps[1:], (0, 0)], strict=True):
        assert mean > -3 * error
        assert error > next_error
    means = [mean for mean, _ in gaps]
    assert means[0] > means[1] > means[2] > means[3]
    assert means[0] > 2 and means[3] < 0.15


def test_another_number_of_steps_is_another_process_with_another_log_p(known):
    model, images, exact = known
    result = evaluation.iwae(model, images, 512, steps=3, batch_size=2000, verbose=0)
    other = -distribution_of_images(model, 3).logpdf(images.reshape(len(images), -1))
    mean, error = gap(result, other)
    assert -3 * error < mean < 0.4
    assert np.mean(np.abs(other - exact)) > 0.05  # the two do differ
    assert (result.steps, result.estimator) == (3, "iwae, K = 512, T = 3, ancestral")


def test_one_sample_gives_the_elbo_of_the_steps(known):
    model, images, _ = known
    many = evaluation.elbo(model, images, 200, batch_size=2000, verbose=0)
    np.testing.assert_array_equal(many.estimates, many.negative_elbo)
    # The same images, eight times anew with one sample each.
    repeated = np.tile(images, (8, 1, 1, 1))
    one = evaluation.iwae(model, repeated, 1, batch_size=2000, verbose=0)
    difference = one.estimates.reshape(8, -1).mean(axis=0) - many.estimates
    error = difference.std(ddof=1) / len(images) ** 0.5
    assert error < 0.12 and abs(difference.mean()) < 4 * error


def test_the_t_step_elbo_tends_to_the_one_in_continuous_time(known):
    model, images, _ = known
    results = [
        evaluation.elbo(model, images, 50, steps=steps, batch_size=2000, verbose=0) for steps in (STEPS, 40, 320)
    ]
    gaps = [np.mean(result.negative_elbo - result.continuous_time_negative_elbo) for result in results]
    errors = [
        np.std(result.negative_elbo - result.continuous_time_negative_elbo) / len(images) ** 0.5 for result in results
    ]
    assert gaps[0] > 1 and 0.1 < gaps[1] / gaps[0] < 0.4
    assert abs(gaps[2]) < 4 * errors[2] + gaps[0] / 20
    continuous = [result.continuous_time_negative_elbo.mean() for result in results]
    assert np.ptp(continuous) < 8 * max(errors)  # whatever T


def test_the_published_estimate_claims_more_than_the_truth(known):
    """Why it is no bound: it says that images are more probable than they are, the more so the more samples it has."""
    model, images, exact = known
    gaps = []
    for samples in (8, 512):
        result = evaluation.published(model, images, samples, batch_size=2000, verbose=0)
        assert not result.is_bound and "not a bound" in result.estimator
        gaps.append(gap(result, exact))
    assert gaps[1][0] < gaps[0][0] < -5 * gaps[0][1]
    assert gaps[1][0] < -1


def moments_of_calibrated(prior):
    """Mean and covariance of u under the calibrated process with the linear predictor, in double precision (Eq. 27)."""
    steps, size = prior.steps, math.prod(prior.shape)
    path = prior.paths.numpy()[steps - 1, : steps + 1]
    tables = covariances.FullCovariances.unpack(prior.covariances.value).numpy()
    snr = np.exp(-prior.schedule.gamma(GRID_TIMES))
    alpha, sigma_squared = np.sqrt(snr / (1 + snr)), 1 / (1 + snr)
    gain = alpha * prior.variance / (alpha**2 * prior.variance + sigma_squared)  # u_hat = constant + gain y_t
    constant = prior.mean * (1 - alpha * gain)
    mean, covariance = np.zeros(size), np.eye(size)
    for t, s in itertools.pairwise(path):
        c = 1 - snr[t] / snr[s]
        slope = alpha[s] / alpha[t] * (1 - c) + c * alpha[s] * gain[t]
        mean = slope * mean + c * alpha[s] * constant[t]
        of_step = c * sigma_squared[s] * (np.eye(size) + (snr[s] - snr[t]) * tables[t])
        covariance = slope**2 * covariance + of_step
    return gain[0] * mean + constant[0], gain[0] ** 2 * covariance + tables[0]


def check_bound(model, images, exact):
    """The negative ELBO exceeds -log p(x), and importance weighting comes down to it."""
    elbo, tight = (gap(evaluation.iwae(model, images, k, batch_size=2000, verbose=0), exact) for k in (1, 300))
    assert elbo[0] > 1 and -3 * tight[1] < tight[0] < 0.25


def test_the_bound_of_a_calibrated_process_comes_down_to_its_log_p(known):
    """The calibration comes from other images than the bound, and so few that its covariances are far off."""
    model, images, _ = known
    model = refit.with_prior(model, model.prior)
    model.calibrate(images[:20], images[20:40], steps=2)
    exact = distribution_given_pseudoinputs(model, *moments_of_calibrated(model.prior))
    images = images[40:]
    check_bound(model, images, -exact.logpdf(images.reshape(len(images), -1)))
    ancestral = refit.with_ancestral_process(model)
    assert ancestral.prior.process_name == "ancestral" and ancestral.prior.steps == STEPS
    published = [evaluation.published(each, images[:3], 2, verbose=0) for each in (model, ancestral)]
    np.testing.assert_allclose(published[0].estimates, published[1].estimates, rtol=1e-5)
    assert published[0].process == "ancestral"
    # Its graphs are kept, its weights are those of now.
    copy = refit.kept_with_ancestral_process(model)
    assert Evaluator(copy).is_traced(STEPS, published=True)
    before = published[0].estimates
    for weight in model.top_down.trainable_variables:
        weight.assign(weight + 0.01)
    ours, fresh = (
        evaluation.published(each, images[:3], 2, verbose=0).estimates
        for each in (model, refit.with_ancestral_process(model))
    )
    assert refit.kept_with_ancestral_process(model) is copy
    np.testing.assert_allclose(ours, fresh, rtol=1e-5)
    assert np.abs(ours - before).max() > 1e-3


def test_the_bound_of_a_full_mixture_comes_down_to_its_log_p(known):
    model, images, _ = known
    u, validation_u = (refit.draw_pseudoinputs(model, part, 400) for part in (images[:40], images[40:80]))
    mixture = fit_full_mixture(u, validation_u, components=(3,), verbose=0)
    model, images = refit.with_prior(model, mixture), images[80:]
    weights, means = np.exp(mixture.log_weights), mixture.means.numpy()
    matrices = covariances.FullCovariances.unpack(mixture.covariances.value).numpy()
    of_components = [
        np.log(weight) + distribution_given_pseudoinputs(model, *moments).logpdf(images.reshape(len(images), -1))
        for weight, *moments in zip(weights, means, matrices, strict=True)
    ]
    check_bound(model, images, -special.logsumexp(of_components, axis=0))


# One weight, computed by hand


def log_prob(value, mean, log_var):
    density = stats.norm(np.float64(mean), np.exp(0.5 * np.float64(log_var))).logpdf(np.float64(value))
    return density.sum(axis=(1, 2, 3))


@pytest.mark.parametrize(
    "changes", [{}, {"prior": "mixture"}, {"pseudoinput": "none", "encoder_input": "binary"}], ids=str
)
def test_a_weight_is_made_of_its_densities(tiny, images, changes):
    """At K = 1 the estimate is minus one log-weight: SciPy's densities at the same draws give the same."""
    model, data = tiny(**changes), images(5)
    shake(model)
    model.adapt(data)
    result = evaluation.iwae(model, data, samples=1, seed=3, verbose=0)
    published = evaluation.published(model, data, samples=1, seed=3, verbose=0)

    seeds = noise.row_seeds(3, noise.Stream.FIRST_DRAW, 0, 5)
    prior = model.prior
    sizes = [] if prior is None else [prior.bound_noise_size, prior.estimate_noise_size(), 9]
    latents = [4, 16]
    parts = np.split(
        noise.normal(noise.fork(seeds, noise.InferenceNoise.DRAW), sum(sizes) + sum(latents)),
        np.cumsum(sizes + latents)[:-1],
        1,
    )
    latent_noise = [parts[-3].reshape(5, 3, 3, 1) if prior else None, parts[-2].reshape(5, 2, 2, 1)]
    latent_noise.append(parts[-1].reshape(5, 4, 4, 1))
    inputs = model.prepare(tf.constant(data))
    binary = noise.uniform(noise.row_seeds(3, -1, 0, 5), 64).numpy().reshape(data.shape) < inputs.numpy()
    encoding = model.extract_features(tf.constant(binary, tf.float32) if "encoder_input" in changes else inputs)
    inference = model.walk(encoding, [None if part is None else tf.constant(part) for part in latent_noise])

    logits = np.float64(inference.likelihood_params)
    log_likelihood = special.log_expit(np.where(binary, logits, -logits)).sum(axis=(1, 2, 3))
    sampled = log_likelihood.copy()
    for layer, z in enumerate(inference.latents):
        sampled += log_prob(z, inference.prior_means[layer], inference.prior_log_vars[layer])
        sampled -= log_prob(z, inference.posterior_means[layer], inference.posterior_log_vars[layer])
    analytic = log_likelihood - np.sum(inference.kl, axis=0)
    if prior is not None:
        u = inference.pseudoinput
        of_q = log_prob(u, model.pseudoinput(inputs), model.pseudoinput.log_var)
        estimate = prior.estimate(u, tf.constant(parts[-4]), None)
        sampled += estimate.log_weight - of_q
        terms = estimate.terms
        if changes == {}:
            fresh = noise.normal(noise.fork(seeds, noise.InferenceNoise.PUBLISHED_ESTIMATE), prior.steps * 9)
            terms = prior.published_terms(u, fresh)
        analytic -= np.sum(terms, axis=0) + of_q
    np.testing.assert_allclose(result.estimates, -sampled, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(published.estimates, -analytic, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(result.reconstruction, -log_likelihood, rtol=1e-4)
    total = result.reconstruction + result.kl_z.sum(axis=1) + sum(result.kl_u.values())
    np.testing.assert_allclose(result.negative_elbo, total, rtol=1e-5)


def shake(model):
    for index, weight in enumerate(model.trainable_variables):
        weight.assign_add(0.1 * tf.random.stateless_normal(weight.shape, (index, 0)))


# What a user sees


@pytest.fixture(scope="module")
def shaken(tiny, images):
    """Its first layer has no active unit, its second has active units alone, all far from the threshold."""
    keras.utils.set_random_seed(1)
    model = tiny()
    shake(model)
    model.adapt(images(64))
    return model


def test_results_depend_on_the_seed_and_the_place_of_an_image_alone(shaken, images):
    data = images(7)
    first = evaluation.iwae(shaken, data, samples=5, seed=1, verbose=0)
    for batch_size in (1, 2, 3, 17, 1000):
        again = evaluation.iwae(shaken, data, samples=5, seed=1, batch_size=batch_size, verbose=0)
        np.testing.assert_allclose(again.estimates, first.estimates, rtol=1e-4)
        np.testing.assert_allclose(again.continuous_time_negative_elbo, first.continuous_time_negative_elbo, rtol=1e-4)
        for name, values in first.kl_u.items():
            np.testing.assert_allclose(again.kl_u[name], values, rtol=1e-4, atol=1e-4)
    part = evaluation.iwae(shaken, data[:3].astype("float32") / 255, samples=5, seed=1, verbose=0)
    np.testing.assert_allclose(part.estimates, first.estimates[:3], rtol=1e-4)
    other = evaluation.iwae(shaken, data, samples=5, seed=2, verbose=0)
    assert np.abs(other.estimates / first.estimates - 1).max() > 1e-3


def test_the_encoder_runs_once_an_image_and_no_pass_has_more_rows_than_asked_for(tiny, images, monkeypatch):
    model = tiny(pseudoinput="none")
    rows = {"bottom_up": [], "top_down": []}

    def count(part, rows_of):
        call = getattr(model, part).call

        def counting(*inputs, **kwargs):
            tf.py_function(lambda size: rows[part].append(int(size)), [rows_of(inputs[0])], [])
            return call(*inputs, **kwargs)

        monkeypatch.setattr(getattr(model, part), "call", counting)

    count("bottom_up", lambda images: tf.shape(images)[0])
    count("top_down", lambda noise: tf.shape(noise[0])[0])
    evaluation.iwae(model, images(5), samples=13, batch_size=4, verbose=0)
    assert sum(rows["bottom_up"]) == 5 and max(rows["bottom_up"]) <= 4
    assert sum(rows["top_down"]) == 5 * 13 and max(rows["top_down"]) <= 4


def test_graphs_are_traced_once_whatever_the_images_and_the_numbers(shaken, images, monkeypatch):
    walks, walk = [], DVPVAE.walk

    def counting(*arguments, **options):
        walks.append(tf.executing_eagerly())
        return walk(*arguments, **options)

    monkeypatch.setattr(DVPVAE, "walk", counting)
    for number in (1, 2, 3):
        data = images(3 + number, seed=number)
        evaluation.iwae(shaken, data, samples=number, seed=number, batch_size=2 + number, verbose=0)
        evaluation.elbo(shaken, data / 255, samples=number, seed=number, verbose=0)
        evaluation.layer_statistics(shaken, data, seed=number, batch_size=number)
        evaluation.negative_elbo(shaken, data, batch_size=number, verbose=0)
    assert len(walks) <= 1 + 2 + 1  # one draw is scored, two are inferred for the layers, one makes the bound
    assert not any(walks)  # all in graphs


def test_what_is_compiled_ends_with_its_model(tiny, images):
    model = tiny(pseudoinput="none")
    evaluation.iwae(model, images(2), samples=1, verbose=0)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_the_first_evaluation_says_that_it_traces_the_model(tiny, images, capsys):
    model = tiny(pseudoinput="none")
    printed = []
    for _ in range(2):
        evaluation.elbo(model, images(2))
        printed.append(capsys.readouterr().out)
    assert [text.startswith("Tracing the model, once") for text in printed] == [True, False]
    assert all("nats: " in text for text in printed)


def test_the_negative_elbo_of_a_diffusion_prior_is_that_of_its_own_steps(known):
    model, images, _ = known
    result = evaluation.negative_elbo(model, np.tile(images, (5, 1, 1, 1)), batch_size=1000, verbose=0)
    assert (result["process"], result["steps"]) == ("ancestral", STEPS)
    expected = evaluation.elbo(model, images, 50, batch_size=2000, verbose=0)
    assert abs(result["nats"]["mean"] - expected.negative_elbo.mean()) < 3 * result["nats"]["standard_error"]
    assert np.mean(expected.negative_elbo - expected.continuous_time_negative_elbo) > 1


def test_the_negative_elbo_has_the_means_of_the_model_and_their_errors(tiny, images):
    data, model = images(9), tiny(prior="mixture")
    shake(model)
    model.adapt(images(64))
    result = evaluation.negative_elbo(model, data, batch_size=4, verbose=0)
    expected = model(data)
    total = np.float64(expected.negative_elbo)
    assert result["nats"] == {"mean": approx(total.mean()), "standard_error": approx(stats.sem(total))}
    bits = total / (64 * np.log(2))
    assert result["bits_per_dim"] == {"mean": approx(bits.mean()), "standard_error": approx(stats.sem(bits))}
    assert result["reconstruction"]["mean"] == approx(np.mean(expected.reconstruction))
    assert result["kl_z"]["mean"] == approx(np.mean(np.sum(expected.kl_z, axis=1)))
    assert result["kl_u"]["mean"] == approx(np.mean(expected.kl_u)) and result["images"] == 9


def test_one_image_has_no_standard_error(shaken, images):
    for summary in (
        evaluation.elbo(shaken, images(1), verbose=0).summary(),
        evaluation.negative_elbo(shaken, images(1), verbose=0),
    ):
        assert json.loads(json.dumps(summary))["nats"]["standard_error"] is None
        assert plus_minus(summary["nats"]) == f"{summary['nats']['mean']:.2f}"
    assert plus_minus({"mean": 1.234, "standard_error": 0.5}, scale=10, digits=1) == "12.3 +- 5.0"


def test_a_summary_holds_means_errors_and_settings_as_json(shaken, images):
    result = evaluation.iwae(shaken, images(9), samples=4, seed=5, verbose=0)
    summary = json.loads(json.dumps(result.summary()))
    assert summary["nats"]["mean"] == pytest.approx(result.estimates.mean())
    assert summary["nats"]["standard_error"] == pytest.approx(stats.sem(result.estimates))
    assert summary["bits_per_dim"]["mean"] == pytest.approx(result.estimates.mean() / (64 * np.log(2)))
    assert list(summary["kl_z_per_layer"]) == ["z_2", "z_1"]
    assert sum(layer["mean"] for layer in summary["kl_z_per_layer"].values()) == pytest.approx(summary["kl_z"]["mean"])
    assert set(summary["kl_u_terms"]) == {"diffusion", "reconstruction", "prior_kl", "negative_entropy"}
    assert sum(term["mean"] for term in summary["kl_u_terms"].values()) == pytest.approx(summary["kl_u"]["mean"])
    parts = sum(summary[name]["mean"] for name in ("reconstruction", "kl_z", "kl_u"))
    assert parts == pytest.approx(summary["negative_elbo"]["mean"], rel=1e-5)
    settings = {
        "images": 9,
        "samples": 4,
        "steps": 3,
        "seed": 5,
        "estimator": "iwae, K = 4, T = 3, ancestral",
        "is_bound": True,
    }
    assert settings.items() <= summary.items()
    assert summary["seconds"] > 0 and summary["image_samples_per_second"] > 0
    assert summary["bits_per_nat"] == pytest.approx(1 / (64 * np.log(2)))
    numbers = {"samples": np.int64(1), "steps": np.int64(3), "seed": np.int64(3)}
    assert json.loads(json.dumps(evaluation.elbo(shaken, images(2), **numbers, verbose=0).summary()))["samples"] == 1


@pytest.mark.parametrize(
    ("changes", "terms"),
    [({"prior": "standard"}, {"cross_entropy", "negative_entropy"}), ({"pseudoinput": "none"}, set())],
    ids=["exact prior", "ladder"],
)
def test_without_a_diffusion_prior_there_are_no_steps(tiny, images, changes, terms):
    model = tiny(**changes)
    model.adapt(images())
    with pytest.raises(ValueError, match="no diffusion prior: leave out steps"):
        evaluation.elbo(model, images(3), steps=5)
    result = evaluation.elbo(model, images(3), verbose=0)
    assert result.steps is None and result.continuous_time_negative_elbo is None and "T =" not in result.estimator
    assert set(result.kl_u) == terms
    one_draw = evaluation.negative_elbo(model, images(3), verbose=0)
    assert one_draw["nats"]["mean"] == approx(np.mean(model(images(3)).negative_elbo))
    assert "continuous_time_negative_elbo" not in result.summary()


@pytest.mark.parametrize("numbers", [{"samples": 0}, {"steps": 0}, {"batch_size": 0}])
def test_numbers_below_one_are_refused(shaken, images, numbers):
    with pytest.raises(ValueError, match="must be at least 1"):
        evaluation.iwae(shaken, images(2), **numbers)


def test_other_shapes_and_models_that_are_not_adapted_are_refused(shaken, tiny, images):
    for use in (evaluation.elbo, evaluation.layer_statistics):
        for shape, message in (
            ((3, 6, 6, 1), r"The model takes images \[N, 8, 8, 1\], got "),
            ((0, 8, 8, 1), "There are no images to evaluate"),
        ):
            with pytest.raises(ValueError, match=message):
                use(shaken, np.zeros(shape, "uint8"))
        for wrong in (255.0 * np.ones((2, 8, 8, 1)), np.ones((2, 8, 8, 1), "int64"), np.full((2, 8, 8, 1), np.nan)):
            with pytest.raises(ValueError, match=r"Images must be uint8, or floats in \[0, 1\]"):
                use(shaken, wrong)
        with pytest.raises(ValueError, match="Call model.adapt"):
            use(tiny(), images(2))
        with pytest.raises(ValueError, match="A seed is a whole number from -2"):
            use(shaken, images(2), seed=2**31)


# Layers


def test_layer_statistics_agree_with_many_draws(shaken, images):
    data = images(64)
    statistics = evaluation.layer_statistics(shaken, data, batch_size=25)
    draws = [shaken.infer(data, seed=seed) for seed in range(30)]
    for layer in range(2):
        means = np.array([np.float64(draw.posterior_means[layer]) for draw in draws])
        variance = means.mean(axis=0).var(axis=0) - means.var(axis=0, ddof=1).mean(axis=0) / len(draws)
        expected = np.mean(variance > ACTIVE_UNIT_THRESHOLD)
        doubtful = np.mean(np.abs(variance / ACTIVE_UNIT_THRESHOLD - 1) < 0.3)
        assert abs(statistics.active_units[layer] - expected) <= doubtful
        kls = np.mean([draw.kl[layer] for draw in draws], axis=1)
        assert abs(statistics.kl[layer] - kls.mean()) < 5 * kls.std()
    assert statistics.all_active_units == pytest.approx(np.average(statistics.active_units, weights=[4, 16]))
    again = evaluation.layer_statistics(shaken, data, batch_size=64)
    np.testing.assert_allclose(again.kl, statistics.kl, rtol=1e-4)
    np.testing.assert_array_equal(again.active_units, statistics.active_units)


def test_units_that_only_echo_the_noise_above_are_not_active(tiny, images):
    """Posterior means of the last layer that vary with the draw above, not with the image."""
    model = tiny(pseudoinput="none")
    top, last = model.top_down.blocks
    for block in (top, last):
        block.posterior.skip.kernel.assign(tf.zeros_like(block.posterior.skip.kernel))
    top.latent_projection.kernel.assign(tf.ones_like(top.latent_projection.kernel))
    # The mean is half the features, and thus of the draw above, whose deviation is 1.
    half = np.zeros(last.posterior.skip.kernel.shape, "float32")
    half[..., 0] = 0.5 / half.shape[2]
    last.posterior.skip.kernel.assign(half)
    model.bottom_up.conv_in.kernel.assign(tf.zeros_like(model.bottom_up.conv_in.kernel))  # nothing of the image
    draws = np.array([model.infer(images(200), seed=seed).posterior_means[1] for seed in range(2)])
    assert draws.var(axis=1).min() > 3 * ACTIVE_UNIT_THRESHOLD  # what one draw would be taken for
    statistics = evaluation.layer_statistics(model, images(2000))
    np.testing.assert_array_equal(statistics.active_units, [0, 0])
