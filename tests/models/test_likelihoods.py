"""Likelihoods against brute force in float64, closed forms, and counted samples."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from dvpvae_tf import noise
from dvpvae_tf.errors import UserError
from dvpvae_tf.models.likelihoods import BernoulliLikelihood, DiscretizedLogisticMixtureLikelihood
from dvpvae_tf.models.logistic_mixture import DiscretizedLogisticMixture

GRID = 2.0 * np.arange(256) / 255.0 - 1.0
NUM_PARAMETERS = {1: 3, 3: 10}


def mixture_parameters(logits, means, log_scales, coefficients=()):
    """One pixel's raw parameters [1, 1, K]: logits [M], means and log-scales [C][M], coefficients [3][M]."""
    raw = list(logits)
    for channel in range(len(means)):
        raw += [*means[channel], *log_scales[channel]]
        if len(means) == 3:
            raw += list(coefficients[channel])
    return np.array(raw, "float32")[None, None]


def random_parameters(generator, batch, size, channels, mixtures):
    raw = generator.normal(0.0, 1.0, (batch, size, size, NUM_PARAMETERS[channels] * mixtures))
    stride = 3 if channels == 3 else 2
    for channel in range(channels):
        start = mixtures * (1 + stride * channel + 1)
        raw[..., start : start + mixtures] = generator.uniform(-7.5, 0.5, raw[..., :mixtures].shape)
    return raw.astype("float32")


def bin_probability(value, mean, log_scale):
    """Difference of two SciPy distribution functions, taken on the side where they are small."""
    upper = np.inf if value > 1.0 - 1e-6 else (value + 1.0 / 255.0 - mean) / np.exp(log_scale)
    lower = -np.inf if value < -1.0 + 1e-6 else (value - 1.0 / 255.0 - mean) / np.exp(log_scale)
    if value > mean:
        return stats.logistic.sf(lower) - stats.logistic.sf(upper)
    return stats.logistic.cdf(upper) - stats.logistic.cdf(lower)


def pixel_log_prob(raw, value, mixtures, smallest=0.0):
    """Brute force: one pixel in float64, indices spelled out, each probability at least `smallest`."""
    raw, value = np.asarray(raw, "float64"), np.asarray(value, "float64")
    channels = len(value)
    stride = 3 if channels == 3 else 2

    def parameter(channel, kind, mixture):
        return raw[mixtures + channel * stride * mixtures + kind * mixtures + mixture]

    log_probs = []
    for m in range(mixtures):
        means = [parameter(channel, 0, m) for channel in range(channels)]
        if channels == 3:
            red, green, _ = value
            means[1] += np.tanh(parameter(0, 2, m)) * red
            means[2] += np.tanh(parameter(1, 2, m)) * red + np.tanh(parameter(2, 2, m)) * green
        log_prob = raw[m] - special.logsumexp(raw[:mixtures])
        for channel in range(channels):
            log_scale = np.clip(parameter(channel, 1, m), -8.0, 1.0)
            probability = bin_probability(value[channel], means[channel], log_scale)
            with np.errstate(divide="ignore"):  # log 0 of a component that another one makes up for
                log_prob += np.log(max(probability, smallest))
        log_probs.append(log_prob)
    return special.logsumexp(log_probs)


def image_log_prob(raw, image, mixtures):
    height, width, _ = image.shape
    return sum(pixel_log_prob(raw[i, j], image[i, j], mixtures) for i in range(height) for j in range(width))


@pytest.mark.parametrize("channels", [1, 3])
def test_log_prob_equals_brute_force(channels):
    generator = np.random.default_rng(0)
    raw = random_parameters(generator, batch=8, size=2, channels=channels, mixtures=4)
    distribution = DiscretizedLogisticMixture(raw, num_mixtures=4)
    # Values near the mode keep float64 from underflow; edge values are always among them.
    near = np.array(distribution.sample(3, seed=[1, 2]))
    near = np.clip(np.round((near + 1) * 127.5) + generator.integers(-2, 3, near.shape), 0, 255) / 127.5 - 1
    near[0, 0, 0, 0], near[0, 0, 0, 1] = -1.0, 1.0
    expected = [[image_log_prob(raw[n], near[s, n], 4) for n in range(8)] for s in range(3)]
    np.testing.assert_allclose(distribution.log_prob(near.astype("float32")), expected, rtol=1e-5, atol=5e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_log_prob_equals_the_clamped_formula_where_the_clamp_is_not_hit(channels):
    mixtures, generator = 3, np.random.default_rng(1)
    raw = random_parameters(generator, batch=60, size=1, channels=channels, mixtures=mixtures)
    images = np.array(DiscretizedLogisticMixture(raw, mixtures).sample(seed=[5, 6]))
    log_prob = DiscretizedLogisticMixture(raw, mixtures).log_prob(images).numpy()
    exact = np.array([pixel_log_prob(raw[n, 0, 0], images[n, 0, 0], mixtures) for n in range(60)])
    clamped = np.array([pixel_log_prob(raw[n, 0, 0], images[n, 0, 0], mixtures, 1e-10) for n in range(60)])
    not_hit = np.abs(exact - clamped) < 1e-9
    assert not_hit.sum() >= 30
    np.testing.assert_allclose(log_prob[not_hit], clamped[not_hit], rtol=1e-5, atol=3e-4)
    far = np.float32(np.full([1, 1, channels], 0.5))
    raw = random_parameters(generator, 1, 1, channels, mixtures)[0]
    raw[..., mixtures:] = -8.0
    assert DiscretizedLogisticMixture(raw, mixtures).log_prob(far) < channels * np.log(1e-10)


SATURATED = 100.0  # a location so far out that its edge bin has probability 1 in float32


def parameters_of_one_channel(channel, channels, means, log_scales, logits, coefficients):
    """The other channels saturate at 1 with certainty, so that log_prob is that of `channel` alone."""
    mixtures = len(logits)
    all_means = [np.full(mixtures, SATURATED)] * channels
    all_log_scales = [np.full(mixtures, -8.0)] * channels
    all_means[channel], all_log_scales[channel] = means, log_scales
    return mixture_parameters(logits, all_means, all_log_scales, coefficients)


@pytest.mark.parametrize(("channels", "channel"), [(1, 0), (3, 0), (3, 1), (3, 2)])
def test_probabilities_of_a_channel_sum_to_one(channels, channel):
    generator = np.random.default_rng(2)
    cases = [
        (generator.uniform(-1.2, 1.2, 5), generator.uniform(-9, 2, 5), generator.normal(size=5)) for _ in range(60)
    ]
    for mean, log_scale in itertools.product(
        [0.0, 1 / 255, 2 / 255, 0.123456, 254 / 255, 1.0, -1.0, 1.0039, 3.0, -50.0, 50.0, 1e4, -1e4],
        [-1e4, -8.0, -6.0, -4.0, 0.0, 1.0, 1e4],
    ):
        cases.append((np.full(5, mean), np.full(5, log_scale), [1e4, -1e4, 0.0, 0.0, 1e4]))
    raw = np.stack(
        [parameters_of_one_channel(channel, channels, *case, generator.normal(size=(3, 5))) for case in cases]
    )
    values = np.ones((256, 1, 1, 1, channels), "float32")
    values[..., channel] = GRID[:, None, None, None]
    log_prob = DiscretizedLogisticMixture(raw, num_mixtures=5).log_prob(values).numpy()
    assert log_prob.dtype == np.float32 and log_prob.shape == (256, len(cases))
    assert np.isfinite(log_prob).all()
    np.testing.assert_allclose(np.exp(log_prob.astype("float64")).sum(0), 1.0, rtol=0, atol=1e-6)


def test_conditional_probabilities_of_blue_sum_to_one_given_any_red_and_green():
    generator = np.random.default_rng(3)
    raw = random_parameters(generator, batch=40, size=1, channels=3, mixtures=4)
    lower = np.array(DiscretizedLogisticMixture(raw, 4).sample(seed=[7, 8]))[..., :2]
    blue = np.broadcast_to(GRID[:, None, None, None, None], (256, 40, 1, 1, 1))
    values = np.concatenate([np.broadcast_to(lower, (256, *lower.shape)), blue], -1).astype("float32")
    joint = np.exp(DiscretizedLogisticMixture(raw, 4).log_prob(values).numpy().astype("float64")).sum(0)
    certain_blue = raw.copy()
    certain_blue[..., 4 * 7 : 4 * 8] = SATURATED
    certain_blue[..., 4 * 8 : 4 * 9] = -8.0
    marginal = DiscretizedLogisticMixture(certain_blue, 4).log_prob(values[-1]).numpy().astype("float64")
    np.testing.assert_allclose(joint, np.exp(marginal), rtol=5e-6)


def test_log_prob_far_out_equals_its_asymptote():
    half_bin, scale = 1.0 / 255.0, np.exp(-8.0)
    for value, mean in [(1.0, -50.0), (-1.0, 50.0), (GRID[200], -50.0), (GRID[3], 50.0), (1.0, -1e4)]:
        raw = mixture_parameters([0.0], [[mean]], [[-8.0]])
        distance = (abs(value - mean) - half_bin) / scale  # to the nearer edge; the other one adds e^-23
        log_prob = DiscretizedLogisticMixture(raw, 1).log_prob(np.float32([[[value]]]))
        np.testing.assert_allclose(log_prob, -distance, rtol=1e-6)


def value_and_gradient(raw, values, mixtures, temperature=1.0):
    raw = tf.constant(raw)
    with tf.GradientTape() as tape:
        tape.watch(raw)
        log_prob = DiscretizedLogisticMixture(raw, mixtures, temperature).log_prob(values)
    return log_prob.numpy(), tape.gradient(log_prob, raw).numpy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_values_and_gradients_are_finite_far_out(channels, temperature):
    generator = np.random.default_rng(4)
    mixtures = 3
    raw = generator.choice(
        [-1e4, -50.0, -8.0, -1.0, 0.0, 1.0, 50.0, 1e4], (500, 1, 1, NUM_PARAMETERS[channels] * mixtures)
    ).astype("float32")
    values = generator.choice([-1.0, GRID[1], GRID[100], GRID[254], 1.0], (500, 1, 1, channels))
    log_prob, gradient = value_and_gradient(raw, values.astype("float32"), mixtures, temperature)
    assert np.isfinite(log_prob).all() and np.isfinite(gradient).all()


def test_gradient_towards_a_far_value_is_not_lost():
    raw = mixture_parameters([0.0], [[-50.0]], [[-8.0]])
    _, gradient = value_and_gradient(raw, np.float32([[[GRID[128]]]]), 1)
    np.testing.assert_allclose(gradient[0, 0, 1], np.exp(8.0), rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_gradient_equals_finite_differences_of_brute_force(channels):
    mixtures, step = 2, 1e-5
    generator = np.random.default_rng(5)
    raw = generator.normal(0.0, 0.5, (NUM_PARAMETERS[channels] * mixtures)).astype("float32")
    for value in ([GRID[90]] * channels, [1.0] * channels, [-1.0] * channels):
        _, gradient = value_and_gradient(raw[None, None], np.float32([[value]]), mixtures)
        for index in range(len(raw)):
            shift = step * np.eye(len(raw))[index]
            difference = pixel_log_prob(raw + shift, value, mixtures)
            difference -= pixel_log_prob(raw - shift, value, mixtures)
            np.testing.assert_allclose(gradient[0, 0, index], difference / (2 * step), rtol=1e-3, atol=1e-4)


def test_off_grid_values_are_taken_at_the_nearest_level():
    raw = random_parameters(np.random.default_rng(6), 1, 1, 3, 2)
    distribution = DiscretizedLogisticMixture(raw, 2)
    level = np.float32([[[GRID[10], GRID[99], GRID[255]]]])
    np.testing.assert_array_equal(distribution.log_prob(level + 0.003), distribution.log_prob(level))


def chi_square_p_value(counts, probabilities):
    """Of cells with at least 5 expected counts, all others together."""
    expected = probabilities * counts.sum()
    large = expected >= 5
    observed = np.append(counts[large], counts[~large].sum())
    expected = np.append(expected[large], expected[~large].sum())
    assert expected.size > 20
    return stats.chisquare(observed, expected, sum_check=False).pvalue


def sample_as_a_distribution(raw, num, seed):
    return DiscretizedLogisticMixture(raw, 2).sample(num, seed=[seed, seed + 1]).numpy()


def sample_with_a_seed_each(raw, num, seed):
    images = DiscretizedLogisticMixtureLikelihood(2).images(
        np.tile(raw, [num, 1, 1, 1]), noise.row_seeds(seed, 0, 0, num)
    )
    return 2.0 * images.numpy() - 1.0


@pytest.mark.parametrize("sample", [sample_as_a_distribution, sample_with_a_seed_each])
def test_sample_frequencies_of_grey_pixels(sample):
    raw = mixture_parameters([0.3, -0.4], [[-0.95, 0.8]], [[-2.5, -2.0]])
    levels = (sample(raw, 40_000, seed=3).ravel() + 1.0) * 127.5
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    counts = np.bincount(np.round(levels).astype(int), minlength=256)
    probabilities = np.exp([pixel_log_prob(raw[0, 0], [value], 2) for value in GRID])
    assert chi_square_p_value(counts, probabilities) > 0.01
    assert chi_square_p_value(counts, np.roll(probabilities, 1)) < 1e-6


@pytest.mark.parametrize("sample", [sample_as_a_distribution, sample_with_a_seed_each])
def test_joint_sample_frequencies_of_colour_pixels(sample):
    means = [[-0.99, 0.3], [0.5, -0.2], [0.1, 0.4]]
    raw = mixture_parameters([0.5, 0.0], means, [[-5.5, -5.3]] * 3, [[0.8, -0.5], [-0.6, 0.7], [0.4, 1.5]])

    def draw_levels(seed):
        return np.round((sample(raw, 20_000, seed).reshape(-1, 3) + 1.0) * 127.5).astype(int)

    cells, sizes = np.unique(draw_levels(5), axis=0, return_counts=True)
    cells = cells[sizes >= 5]  # fixed by one draw, counted in another
    counts = np.all(draw_levels(7)[:, None] == cells, -1).sum(0)
    probabilities = np.exp([pixel_log_prob(raw[0, 0], 2 * cell / 255 - 1, 2) for cell in cells])
    counts = np.append(counts, 20_000 - counts.sum())
    probabilities = np.append(probabilities, 1 - probabilities.sum())
    assert chi_square_p_value(counts, probabilities) > 0.01
    # Red is dark in the first component, green in the second: sharing one, exactly one of them is dark.
    levels = draw_levels(9)
    assert np.all((levels[:, 0] < 60) != (levels[:, 1] < 96))


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-24])
def test_the_ends_of_uniform_noise_give_finite_pixels_of_possible_components(uniform):
    raw = mixture_parameters([-1e4, 0.0, -1e4], [[-1.0, 0.2, 0.9]], [[-8.0] * 3])
    pixel = DiscretizedLogisticMixture(raw, 3).from_uniform(tf.fill([1, 1, 2], uniform))
    np.testing.assert_allclose(pixel, [[[0.2]]], atol=18 * np.exp(-8.0) + 1 / 255)


def test_uniform_noise_gives_components_and_quantiles():
    """The pixel is the quantile of the chosen component, to the nearest level; SciPy has the quantiles."""
    weights, means, scales = np.array([0.2, 0.5, 0.3]), np.array([-0.5, 0.0, 0.4]), np.exp([-3.0, -2.5, -3.5])
    raw = mixture_parameters(np.log(weights), [means], [np.log(scales)])
    uniform = np.random.default_rng(0).uniform(0.01, 0.99, (500, 1, 1, 2)).astype("float32")
    component = np.searchsorted(np.cumsum(weights), uniform[..., :1], side="right")
    expected = stats.logistic.ppf(uniform[..., 1:], means[component], scales[component])
    pixels = DiscretizedLogisticMixture(raw, 3).from_uniform(uniform)
    np.testing.assert_allclose(pixels, np.clip(expected, -1, 1), atol=1 / 255 + 1e-5)


def test_same_seed_same_sample():
    distribution = DiscretizedLogisticMixture(random_parameters(np.random.default_rng(7), 2, 4, 3, 5), 5)
    first = distribution.sample(3, seed=[1, 2])
    assert first.shape == (3, 2, 4, 4, 3)
    np.testing.assert_array_equal(first, distribution.sample(3, seed=[1, 2]))
    assert np.any(first != distribution.sample(3, seed=[1, 3]))


def test_mean_and_mode_in_closed_form():
    means = [[0.2, -0.4], [0.1, 0.3], [-0.3, 0.2]]
    coefficients = np.array([[0.5, -0.5], [0.3, 0.2], [-0.7, 0.4]])
    raw = mixture_parameters([np.log(3.0), 0.0], means, [[-8.0, -8.0]] * 3, coefficients)
    distribution = DiscretizedLogisticMixture(raw, 2)

    def chain(weights):
        average = lambda parameter: np.dot(weights, parameter)  # noqa: E731
        red = average(means[0])
        green = average(means[1]) + average(np.tanh(coefficients[0])) * red
        blue = average(means[2]) + average(np.tanh(coefficients[1])) * red
        return [red, green, blue + average(np.tanh(coefficients[2])) * green]

    np.testing.assert_allclose(distribution.mean()[0, 0], chain([0.75, 0.25]), rtol=1e-5)
    np.testing.assert_allclose(distribution.mode()[0, 0], chain([1.0, 0.0]), atol=2 / 255)
    assert np.all(np.min(np.abs(distribution.mode()[0, 0, :, None] - GRID), -1) < 1e-6)

    out_of_range = mixture_parameters([0.0], [[50.0], [0.0], [-0.5]], [[-8.0]] * 3, [[20.0], [0.0], [20.0]])
    for statistic in ("mean", "mode"):
        value = getattr(DiscretizedLogisticMixture(out_of_range, 1), statistic)()
        np.testing.assert_allclose(value, [[[1.0, 1.0, 0.5]]], atol=1 / 255)


def test_mode_is_the_most_probable_level_of_a_narrow_component():
    raw = mixture_parameters([0.0], [[0.4321]], [[-4.0]])
    distribution = DiscretizedLogisticMixture(raw, 1)
    log_prob = distribution.log_prob(GRID.reshape(256, 1, 1, 1).astype("float32"))
    np.testing.assert_allclose(distribution.mode()[0, 0, 0], GRID[np.argmax(log_prob)], atol=1e-6)


def test_temperature_multiplies_the_scales_after_the_clipping():
    raw = mixture_parameters([0.0], [[0.0]], [[-3.0]])
    narrow = mixture_parameters([0.0], [[0.0]], [[-3.0 + np.log(0.25)]])
    value = np.float32([[[GRID[140]]]])
    np.testing.assert_allclose(
        DiscretizedLogisticMixture(raw, 1, temperature=0.25).log_prob(value),
        DiscretizedLogisticMixture(narrow, 1).log_prob(value),
        rtol=1e-5,
    )
    spreads = [
        np.std(DiscretizedLogisticMixture(raw, 1, temperature).sample(20_000, seed=[1, 1]))
        for temperature in (1.0, 0.5)
    ]
    np.testing.assert_allclose(spreads, np.pi / np.sqrt(3) * np.exp(-3.0) * np.array([1.0, 0.5]), rtol=0.03)
    clipped = mixture_parameters([0.0], [[0.0]], [[100.0]])
    np.testing.assert_allclose(
        DiscretizedLogisticMixture(clipped, 1, temperature=np.exp(-4.0)).log_prob(value),
        DiscretizedLogisticMixture(raw, 1).log_prob(value),
        rtol=1e-5,
    )


def test_temperature_zero_draws_components_only():
    raw = mixture_parameters([0.0, 0.0], [[GRID[20], GRID[200]]], [[1.0, 1.0]])
    samples = DiscretizedLogisticMixture(raw, 2, temperature=0.0).sample(200, seed=[1, 2])
    np.testing.assert_allclose(np.unique(samples), [GRID[20], GRID[200]], atol=1e-6)


def test_bfloat16_parameters_are_computed_with_in_float32():
    raw = tf.cast(random_parameters(np.random.default_rng(8), 2, 2, 3, 2), tf.bfloat16)
    values = DiscretizedLogisticMixture(raw, 2).sample(seed=[1, 2])
    log_prob = DiscretizedLogisticMixture(raw, 2).log_prob(values)
    assert values.dtype == log_prob.dtype == tf.float32
    exact = DiscretizedLogisticMixture(tf.cast(raw, tf.float32), 2).log_prob(values)
    np.testing.assert_array_equal(log_prob, exact)
    bernoulli = BernoulliLikelihood().distribution(tf.cast([[[[0.3]]]], tf.bfloat16))
    assert bernoulli.log_prob(tf.ones([1, 1, 1, 1])).dtype == tf.float32


@pytest.mark.parametrize("channels", [1, 3])
def test_graph_mode_with_unknown_shapes_equals_eager_mode(channels):
    likelihood = DiscretizedLogisticMixtureLikelihood(4)
    raw = random_parameters(np.random.default_rng(9), 3, 5, channels, 4)
    seeds = np.array([[1, 2], [3, 4], [5, 6]], "int32")
    parameters = tf.TensorSpec([None, None, None, raw.shape[-1]])

    @tf.function(input_signature=[parameters, tf.TensorSpec([None, 2], tf.int32), tf.TensorSpec([])], autograph=False)
    def draw_and_score(parameters, seeds, temperature):
        images = likelihood.images(tf.ensure_shape(parameters, [None, *raw.shape[1:]]), seeds, temperature)
        distribution = likelihood.distribution(parameters)
        return (
            images,
            distribution.log_prob(likelihood.target(images)),
            distribution.mean(),
            distribution.mode(),
        )

    graph, eager = (
        function(tf.constant(raw), seeds, tf.constant(0.7))
        for function in (draw_and_score, draw_and_score.python_function)
    )
    for a, b in zip(graph, eager, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_tfp_contract():
    raw = random_parameters(np.random.default_rng(10), 6, 2, 3, 2).reshape(2, 3, 2, 2, 20)
    distribution = DiscretizedLogisticMixture(raw, 2)
    assert distribution.batch_shape == [2, 3] and distribution.event_shape == [2, 2, 3]
    np.testing.assert_array_equal(distribution.batch_shape_tensor(), [2, 3])
    np.testing.assert_array_equal(distribution.event_shape_tensor(), [2, 2, 3])
    np.testing.assert_allclose(distribution[1].mean(), distribution.mean()[1], rtol=1e-6, atol=1e-7)
    values = distribution.sample([4, 5], seed=[1, 2])
    assert values.shape == (4, 5, 2, 3, 2, 2, 3) and distribution.log_prob(values).shape == (4, 5, 2, 3)
    cold = distribution.copy(temperature=0.5).log_prob(values)
    expected = DiscretizedLogisticMixture(raw, 2, temperature=0.5).log_prob(values)
    np.testing.assert_allclose(cold, expected, rtol=1e-6)


def test_wrong_number_of_parameters_is_told():
    with pytest.raises(ValueError, match="30 parameters a pixel for grey images or 100 for colour images, not 99"):
        DiscretizedLogisticMixture(tf.zeros([1, 2, 2, 99]))


def test_bernoulli_log_prob_equals_scipy():
    generator = np.random.default_rng(11)
    logits = generator.normal(0.0, 3.0, (4, 3, 3, 1)).astype("float32")
    images = generator.integers(0, 2, logits.shape).astype("float32")
    expected = stats.bernoulli.logpmf(images, special.expit(logits.astype("float64"))).sum((1, 2, 3))
    np.testing.assert_allclose(BernoulliLikelihood().distribution(logits).log_prob(images), expected, rtol=1e-5)
    np.testing.assert_allclose(BernoulliLikelihood().images(logits), special.expit(logits), rtol=1e-5)


def test_bernoulli_target_is_a_draw_of_the_grey_image():
    likelihood = BernoulliLikelihood()
    images = tf.fill([10_000, 1, 1, 1], 0.3)
    draw = likelihood.target(images, tf.random.stateless_uniform(images.shape, [1, 2])).numpy()
    assert likelihood.needs_uniform and set(np.unique(draw)) == {0.0, 1.0} and draw.dtype == np.float32
    assert abs(draw.mean() - 0.3) < 0.02
    extremes = tf.constant([[[[0.0], [1.0]]]])
    for uniform in (tf.zeros_like(extremes), tf.fill(extremes.shape, 0.9999999)):
        np.testing.assert_array_equal(likelihood.target(extremes, uniform), extremes)
    rounded = likelihood.target(tf.constant([[[[0.0], [0.49], [0.5], [0.51], [1.0]]]]))
    np.testing.assert_array_equal(np.ravel(rounded), [0, 0, 0, 1, 1])


@pytest.mark.parametrize("channels", [1, 3])
def test_mixture_images_are_eight_bit_and_round_trip_through_target(channels):
    likelihood = DiscretizedLogisticMixtureLikelihood(3)
    raw = random_parameters(np.random.default_rng(12), 4, 3, channels, 3)
    drawn = likelihood.images(raw, np.array([[1, 2], [3, 4], [5, 6], [7, 8]], "int32"))
    for images in (drawn, likelihood.images(raw)):
        assert images.shape == (4, 3, 3, channels) and images.dtype == tf.float32
        levels = 255.0 * np.array(images)
        assert levels.min() >= 0.0 and levels.max() <= 255.0
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    np.testing.assert_array_equal(likelihood.images(raw), (likelihood.distribution(raw).mode() + 1) / 2)
    np.testing.assert_allclose(likelihood.target(np.float32([0.0, 0.5, 1.0])), [-1.0, 0.0, 1.0])
    assert not likelihood.needs_uniform


def test_an_image_depends_on_its_own_seed_only():
    likelihood = DiscretizedLogisticMixtureLikelihood(3)
    raw = random_parameters(np.random.default_rng(13), 4, 3, 3, 3)
    seeds = np.array([[1, 2], [3, 4], [3, 4], [7, 8]], "int32")
    images = likelihood.images(raw, seeds)
    np.testing.assert_array_equal(likelihood.images(raw[2:], seeds[2:]), images[2:])
    np.testing.assert_array_equal(likelihood.images(raw[[2, 0]], seeds[[2, 0]]), tf.gather(images, [2, 0]))
    same = likelihood.images(np.repeat(raw[:1], 4, 0), seeds)
    np.testing.assert_array_equal(same[1], same[2])
    assert np.any(same[1] != same[3])


def test_each_image_may_have_its_own_temperature():
    likelihood = DiscretizedLogisticMixtureLikelihood(3)
    raw, seeds = random_parameters(np.random.default_rng(14), 3, 2, 3, 3), noise.row_seeds(0, 0, 0, 3)
    temperatures = [0.0, 0.5, 1.0]
    images = likelihood.images(raw, seeds, tf.reshape(temperatures, [3, 1, 1, 1]))
    for row, temperature in enumerate(temperatures):
        expected = likelihood.images(raw, seeds, temperature)[row]
        np.testing.assert_allclose(images[row], expected, atol=1e-6)
    np.testing.assert_allclose(images[0], likelihood.mean_images(raw)[0], atol=1e-6)


def test_number_of_parameters():
    assert [BernoulliLikelihood().num_parameters(channels) for channels in (1, 3)] == [1, 3]
    likelihood = DiscretizedLogisticMixtureLikelihood()
    assert [likelihood.num_parameters(channels) for channels in (1, 3)] == [30, 100]
    with pytest.raises(UserError, match="images have 1 or 3 channels, not 4"):
        likelihood.num_parameters(4)


@pytest.mark.parametrize("likelihood", [BernoulliLikelihood(), DiscretizedLogisticMixtureLikelihood(7)])
def test_serialisation_round_trip(likelihood):
    serialised = keras.saving.serialize_keras_object(likelihood)
    assert serialised["registered_name"] == f"dvpvae_tf>{type(likelihood).__name__}"
    restored = keras.saving.deserialize_keras_object(serialised)
    assert type(restored) is type(likelihood) and restored.get_config() == likelihood.get_config()
    assert restored.num_parameters(3) == likelihood.num_parameters(3)


# Single pixels, for inpainting


@pytest.mark.parametrize(
    ("likelihood", "channels"), [(BernoulliLikelihood(), 1), (DiscretizedLogisticMixtureLikelihood(2), 3)]
)
def test_the_log_probs_of_pixels_add_up_to_that_of_the_image(likelihood, channels):
    parameters = tf.random.stateless_normal([4, 3, 3, likelihood.num_parameters(channels)], (0, 1))
    target = likelihood.target(tf.random.stateless_uniform([4, 3, 3, channels], (0, 2)))
    pixels = likelihood.pixel_log_probs(parameters, target)
    assert pixels.shape == (4, 3, 3)
    np.testing.assert_allclose(
        tf.reduce_sum(pixels, axis=[1, 2]), likelihood.distribution(parameters).log_prob(target), rtol=1e-5
    )
    # A pixel does not depend on the others.
    changed = tf.concat([1.0 - target[:, :1], target[:, 1:]], axis=1)
    np.testing.assert_array_equal(likelihood.pixel_log_probs(parameters, changed)[:, 1:], pixels[:, 1:])


def test_bernoulli_draws_are_black_or_white_with_their_probabilities():
    logits = tf.tile(tf.constant([-2.0, 0.0, 1.0], shape=[1, 1, 3, 1]), [20_000, 1, 1, 1])
    drawn = BernoulliLikelihood().draw(logits, noise.row_seeds(0, 0, 0, 20_000)).numpy()
    assert set(np.unique(drawn)) == {0.0, 1.0}
    np.testing.assert_allclose(drawn.mean(axis=0).ravel(), 1 / (1 + np.exp([2.0, 0.0, -1.0])), atol=0.015)
