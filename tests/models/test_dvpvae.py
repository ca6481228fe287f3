"""The whole model: its bound taken apart, evaluation, training, sampling, and what it tells a user."""

from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special, stats

from dvpvae_tf import DVPVAE, FusedAdamax, noise
from dvpvae_tf.layers.pseudoinputs import DownsamplePseudoinput, LearnablePseudoinput
from dvpvae_tf.models.likelihoods import BernoulliLikelihood, DiscretizedLogisticMixtureLikelihood
from dvpvae_tf.noise import Stream
from dvpvae_tf.priors import DiffusionPrior, StandardPrior

LOG_VAR_MAX = -6.0  # where it starts
VARIANTS = {
    "scalar sigma, no aggregation, binary input": {
        "pseudoinput_sigma": "scalar",
        "likelihood_input": "last_features",
        "encoder_input": "binary",
    },
    "downsample, mixture prior, colour": {
        "pseudoinput": "downsample",
        "prior": "mixture",
        "image_channels": 3,
        "likelihood": "discretized_logistic_mixture",
        "mixtures": 2,
        "scales": (8, 2),
    },
    "learnable, unbounded diffusion prior, grey levels": {
        "pseudoinput": "learnable",
        "likelihood": "discretized_logistic_mixture",
        "mixtures": 3,
    },
    "ladder": {"pseudoinput": "none"},
    "z_1 alone": {"likelihood_input": "last_latent", "prior": "standard"},
    "VampPrior": {"pseudoinput": "none", "vamp_components": 5},
}


class Trained(NamedTuple):
    model: DVPVAE
    images: np.ndarray
    before: Any  # the Elbo of the images
    after: Any
    history: dict


def train(model, images, epochs):
    model.adapt(images)
    model.compile(FusedAdamax(0.01, global_clipnorm=5.0))
    before = model(images)
    history = model.fit(images, batch_size=16, epochs=epochs, verbose=0).history
    return Trained(model, images, before, model(images), history)


@pytest.fixture(scope="module")
def trained(tiny, images):
    """The usual model after 40 steps, its sigma wanting to grow beyond its range."""
    return train(tiny(pseudoinput_log_var_max=LOG_VAR_MAX), images(64), epochs=10)


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request, tiny, images):
    changes = VARIANTS[request.param]
    return train(tiny(**changes), images(64, channels=changes.get("image_channels", 1)), epochs=5)


@pytest.fixture(scope="module")
def ladder(tiny):
    return tiny(pseudoinput="none")


def evaluation_seeds(model, rows):
    return noise.row_seeds(model.seed, Stream.EVALUATION, 0, rows)


def without_features(inference):
    """All tensors that an inference holds and computes, but for the features, which are in the compute dtype."""
    steps = [step._replace(features=None) for step in inference.steps]
    found = tf.nest.flatten([inference._replace(steps=steps), inference.kl, inference.log_ratio])
    return [value for value in found if value is not None]


def log_prob(mean, log_var, value):
    return stats.norm(np.float64(mean), np.exp(0.5 * np.float64(log_var))).logpdf(value)


# The bound


def test_terms_of_the_bound_are_those_of_the_inference(trained):
    model, images = trained.model, trained.images
    elbo, inference = model(images), model.infer(images, seed=model.seed)
    seeds = evaluation_seeds(model, 64)

    binary = noise.uniform(seeds, 64).numpy().reshape(images.shape) < images / np.float32(255)
    logits = np.float64(inference.likelihood_params)
    log_likelihood = special.log_expit(np.where(binary, logits, -logits)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(elbo.reconstruction, -log_likelihood, rtol=1e-4)

    for layer in range(model.num_layers):
        q, p = (
            tfp.distributions.Normal(np.float64(means[layer]), np.exp(0.5 * np.float64(log_vars[layer])))
            for means, log_vars in (
                (inference.posterior_means, inference.posterior_log_vars),
                (inference.prior_means, inference.prior_log_vars),
            )
        )
        kl = tfp.distributions.kl_divergence(q, p).numpy().sum(axis=(1, 2, 3))
        np.testing.assert_allclose(elbo.kl_z[:, layer], kl, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(inference.kl[layer], kl, rtol=1e-3, atol=1e-4)

    bound_noise = noise.normal(noise.fork(seeds, noise.InferenceNoise.DRAW), 10 + 9 + 4 + 16)[:, :10]
    log_var = model.pseudoinput.log_var.numpy()
    entropy = stats.norm(0, np.exp(0.5 * np.float64(log_var))).entropy().sum()
    kl_u = sum(model.prior.negative_bound(inference.pseudoinput, bound_noise)) - entropy
    np.testing.assert_allclose(elbo.kl_u, kl_u, rtol=1e-4, atol=1e-3)

    total = elbo.reconstruction + tf.reduce_sum(elbo.kl_z, axis=1) + elbo.kl_u
    np.testing.assert_allclose(elbo.negative_elbo, total, rtol=1e-6)
    assert elbo.kl_z.shape == (64, 2) and elbo.negative_elbo.shape == (64,)


def test_kl_of_u_with_an_exact_prior_agrees_with_scipy(tiny, images):
    model = tiny(pseudoinput="downsample", prior="standard")
    elbo, u = model(images()), model.infer(images(), seed=0).pseudoinput
    log_ratio = -stats.norm(0, np.exp(-3.0)).entropy() * 9 - stats.norm.logpdf(u).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(elbo.kl_u, log_ratio, rtol=1e-4)


def test_latents_and_pseudoinputs_are_drawn_from_their_posteriors(trained):
    model, images = trained.model, np.repeat(trained.images, 4, axis=0)
    inference = model.infer(images, seed=3)
    mean = model.pseudoinput(images / np.float32(255))
    noises = [(inference.pseudoinput - mean) / np.exp(0.5 * model.pseudoinput.log_var.numpy())]
    for layer in range(2):
        deviation = np.exp(0.5 * inference.posterior_log_vars[layer])
        noises.append((inference.latents[layer] - inference.posterior_means[layer]) / deviation)
    noises = [np.reshape(values, (256, -1)) for values in noises]
    for values in noises:
        assert stats.kstest(values.ravel(), "norm").pvalue > 0.001
    of_target = noise.uniform(noise.row_seeds(3, Stream.EVALUATION, 0, 256), 64).numpy()
    columns = np.concatenate([*noises, of_target], axis=1)
    columns = np.concatenate([columns, columns**2], axis=1)
    correlations = np.corrcoef(columns.T)
    is_own_square = np.eye(len(correlations) // 2, dtype=bool)
    assert np.abs(correlations[~np.tile(is_own_square, (2, 2))]).max() < 6 / np.sqrt(256)


def test_inference_without_noise(trained):
    model, images = trained.model, trained.images
    first, second = (model.infer(images, sample=False, seed=seed) for seed in (0, 1))
    for one, other in zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first.pseudoinput, model.pseudoinput(images / np.float32(255)))
    for latent, mean in zip(first.latents, first.posterior_means, strict=True):
        np.testing.assert_array_equal(latent, mean)
    total = sum(tf.image.resize(z, (8, 8), method="bilinear") for z in first.latents) / np.sqrt(2.0)
    parameters = model.top_down.conv_out(model.top_down.aggregation(total))
    np.testing.assert_allclose(first.likelihood_params, parameters, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.reconstruct(images), special.expit(parameters), rtol=1e-4, atol=1e-5)


def test_inference_has_the_promised_shapes_top_layer_first(trained):
    inference = trained.model.infer(trained.images[:5])
    assert inference.pseudoinput.shape == (5, 3, 3, 1)
    assert inference.likelihood_params.shape == (5, 8, 8, 1)
    for field in ("posterior_means", "posterior_log_vars", "prior_means", "prior_log_vars", "latents"):
        assert [tuple(value.shape) for value in getattr(inference, field)] == [(5, 2, 2, 1), (5, 4, 4, 1)]
    assert [tuple(value.shape) for value in inference.kl] == [(5,), (5,)]
    assert {value.dtype.name for value in without_features(inference)} == {"float32"}


def test_inference_depends_on_the_seed_and_on_each_image_alone(trained):
    model, images = trained.model, trained.images
    u = model.infer(images, seed=1).pseudoinput
    np.testing.assert_array_equal(model.infer(images, seed=1).pseudoinput, u)
    np.testing.assert_allclose(model.infer(images[:3], seed=1).pseudoinput, u[:3], atol=1e-5)
    assert np.abs(model.infer(images, seed=2).pseudoinput - u).max() > 0.01


def test_bytes_and_floats_are_the_same_images(trained):
    model, images = trained.model, trained.images[:4]
    as_bytes, as_floats = model(images), model(images.astype("float32") / 255)
    np.testing.assert_allclose(as_floats.negative_elbo, as_bytes.negative_elbo, rtol=1e-4)


def test_the_encoder_sees_normalised_pixels(tiny, images):
    seen = []
    model = tiny(pseudoinput="none", input_mean=100.0, input_std=50.0)
    bottom_up = model.bottom_up.call
    model.bottom_up.call = lambda inputs: seen.append(inputs) or bottom_up(inputs)
    model(images())
    np.testing.assert_allclose(seen[0], (images().astype("float32") - 100) / 50, rtol=1e-4, atol=1e-4)


def test_a_binary_encoder_sees_the_target_of_the_likelihood(tiny, images):
    seen = []
    model = tiny(pseudoinput="none", encoder_input="binary")
    bottom_up, scored = model.bottom_up.call, model.likelihood.distribution
    model.bottom_up.call = lambda inputs: seen.append((inputs + 1) / 2) or bottom_up(inputs)

    class Recorder:
        def log_prob(self, target):
            seen.append(target)
            return scored(self.parameters).log_prob(target)

    def distribution(parameters):
        recorder = Recorder()
        recorder.parameters = parameters
        return recorder

    model.likelihood.distribution = distribution
    model(images())
    np.testing.assert_array_equal(*seen)
    assert set(np.unique(seen[0])) == {0.0, 1.0}


# Evaluation


def test_evaluation_is_the_mean_over_images_whatever_the_batch_size(trained):
    model, images = trained.model, trained.images
    elbo = model(images)
    expected = {
        "loss": elbo.negative_elbo / (64 * np.log(2)),
        "negative_elbo": elbo.negative_elbo,
        "bits_per_dim": elbo.negative_elbo / (64 * np.log(2)),
        "reconstruction": elbo.reconstruction,
        "kl_z": tf.reduce_sum(elbo.kl_z, axis=1),
        "kl_u": elbo.kl_u,
    }
    labelled = tf.data.Dataset.from_tensor_slices((images, np.arange(64))).batch(13)  # labels are ignored
    for arguments in ({"x": images, "batch_size": 64}, {"x": images, "batch_size": 10}, {"x": labelled}):
        result = model.evaluate(**arguments, verbose=0, return_dict=True)
        assert result.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(result[name], np.mean(values), rtol=1e-4, err_msg=name)


def test_evaluation_repeats_itself_and_depends_on_the_seed(trained, tiny):
    model, images = trained.model, trained.images
    first, again = (model.evaluate(images, verbose=0, return_dict=True) for _ in range(2))
    assert first == again
    other = tiny(pseudoinput_log_var_max=LOG_VAR_MAX, seed=1)
    other.set_weights(model.get_weights())
    bounds = np.asarray(other(images).negative_elbo)
    assert bounds.mean() != first["negative_elbo"]
    differences = bounds - np.asarray(model(images).negative_elbo)  # by the draws alone
    assert abs(differences.mean()) < 4 * differences.std(ddof=1) / len(images) ** 0.5


# Training


def test_training_lowers_the_bound_and_counts_its_steps(trained):
    assert np.mean(trained.after.negative_elbo) < np.mean(trained.before.negative_elbo) - 10
    assert trained.history["bits_per_dim"][-1] < trained.history["bits_per_dim"][0]
    assert int(trained.model.training_steps) == 40
    assert sum(trained.history["skipped_steps"]) == 0
    assert min(trained.history["gradient_norm"]) > 0


def test_sigma_stays_in_its_range_while_training(trained):
    log_var = trained.model.pseudoinput.log_var.numpy()
    assert log_var.min() >= -12 and log_var.max() == LOG_VAR_MAX


def test_every_variant_trains_samples_and_reconstructs(variant):
    model, images = variant.model, variant.images
    assert np.mean(variant.after.negative_elbo) < np.mean(variant.before.negative_elbo)
    assert all(np.isfinite(values).all() for values in (*variant.after, *variant.history.values()))
    for pictures in (model.sample(3), model.reconstruct(images[:3])):
        assert pictures.shape == (3, *images.shape[1:]) and pictures.dtype == "float32"
        assert pictures.min() >= 0 and pictures.max() <= 1
    assert (model.infer(images[:3]).pseudoinput is None) == (model.pseudoinput is None)


def test_gradients_reach_every_weight_of_every_variant(variant):
    model = variant.model
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(variant.images, training=True).negative_elbo)
    for weight, gradient in zip(model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True):
        assert gradient is not None and np.isfinite(gradient).all(), weight.path
        assert np.abs(gradient).max() > 0, weight.path


def test_the_ladder_has_no_pseudoinput(ladder, images):
    elbo = ladder(images())
    np.testing.assert_array_equal(elbo.kl_u, np.zeros(12))
    assert ladder.generate(noise.row_seeds(0, 0, 0, 2)).pseudoinputs is None
    assert not any("pseudoinput" in weight.path or "prior/unet" in weight.path for weight in ladder.weights)


def test_noise_of_training_is_a_function_of_the_step(tiny, images):
    model = tiny(pseudoinput="none")
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)

    def loss():
        return model.fit(images(), shuffle=False, verbose=0).history["negative_elbo"][0]

    first, second = loss(), loss()
    model.training_steps.assign(0)
    assert loss() == first != second


def test_all_variables_have_a_place_on_a_gpu(trained):
    """TensorFlow keeps int32 variables on the CPU: then no step could be compiled with XLA for a GPU."""
    model = trained.model
    variables = [*model.variables, *model.optimizer.variables, model._images_seen]
    assert {variable.dtype for variable in variables} == {"float32", "int64"}


def test_steps_that_are_not_finite_are_skipped_and_counted(trained):
    model, images = trained.model, trained.images[:32]
    kernel = model.bottom_up.conv_in.kernel
    values, steps = kernel.numpy(), int(model.training_steps)
    kernel.assign(np.full_like(values, np.nan))
    state = [variable.numpy() for variable in (*model.weights, *model.optimizer.variables)]
    history = model.fit(images, batch_size=16, verbose=0).history
    assert history["skipped_steps"] == [2]
    assert np.isnan(history["loss"] + history["negative_elbo"] + history["gradient_norm"]).all()
    for variable, value in zip((*model.weights, *model.optimizer.variables), state, strict=True):
        if variable is not model.training_steps:
            np.testing.assert_array_equal(variable, value, err_msg=variable.path)
    assert int(model.training_steps) == steps + 2

    kernel.assign(values)
    history = model.fit(images, batch_size=16, verbose=0).history
    assert history["skipped_steps"] == [0]
    assert np.isfinite(history["negative_elbo"]).all()
    assert np.abs(kernel - values).max() > 0


def test_one_skipped_step_leaves_no_trace_in_an_epochs_means(tiny, images):
    model = tiny(pseudoinput="none")
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    call, calls = model.call, []

    def sometimes_infinite(*args, **kwargs):
        elbo = call(*args, **kwargs)
        calls.append(elbo.negative_elbo)
        # A loss that is not finite while its gradient is.
        return elbo._replace(kl_u=elbo.kl_u + np.inf) if len(calls) == 2 else elbo

    model.call = sometimes_infinite
    history = model.fit(images(24), batch_size=8, shuffle=False, verbose=0).history
    assert history["skipped_steps"] == [1]
    np.testing.assert_allclose(history["negative_elbo"], np.mean([calls[0], calls[2]]), rtol=1e-5)


def test_what_needs_s_is_refused_before_adapting(tiny, images):
    model = tiny()
    model.compile(keras.optimizers.SGD(0.1))
    for use in (lambda: model.fit(images(), verbose=0), lambda: model.evaluate(images()), lambda: model.sample(2)):
        with pytest.raises(ValueError, match="Call model.adapt\\(train\\) first"):
            use()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "Temperatures must be 0 or more"),
        ({"prior_temperature": float("nan")}, "Temperatures must be 0 or more"),
        ({"temperature": [1.0]}, "Temperatures must be 0 or more, one number each for all images"),
        ({"seed": None}, "A seed is a whole number from -2\\^31 to 2\\^31 - 1, got None"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": "3"}, "steps must be a whole number, got '3'"),
        ({"pixels": "mode"}, 'pixels is \'mode\': give "draw" or "mean"'),
        ({"num": 2.0}, "num and batch_size must be whole numbers from 1 on, got 2.0 and 250"),
        ({"temprature": 0.5}, "There is no option temprature .did you mean temperature.."),
    ],
)
def test_options_of_sampling_that_mean_nothing_are_refused(trained, options, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}") as error:
        trained.model.sample(**{"num": 1} | options)
    assert "\n" not in str(error.value)


# Sampling


def test_numbers_of_numpy_are_numbers(trained):
    found = trained.model.sample(np.int64(2), np.float32(0.5), steps=np.int64(2))
    np.testing.assert_array_equal(found, trained.model.sample(2, 0.5, steps=2))


def test_a_pseudoinput_leaves_nothing_to_the_prior(trained, ladder, images):
    u = trained.model.encode(images(1)).u[0]
    for options in ({"steps": 2}, {"prior_temperature": 0.5}):
        with pytest.raises(ValueError, match="leave them out where there is a pseudoinput"):
            trained.model.sample(1, pseudoinput=u, **options)
    with pytest.raises(ValueError, match="prior_temperature is for models with pseudoinputs"):
        ladder.sample(1, prior_temperature=0.5)


def test_decoding_needs_whole_batches(trained, images):
    with pytest.raises(ValueError, match="batch_size must be a whole number from 1 on, got 0"):
        trained.model.decode(trained.model.encode(images(1)), batch_size=0)


def test_samples_depend_on_the_seed_and_their_place_alone(trained):
    model = trained.model
    samples = model.sample(102, seed=4)
    assert samples.shape == (102, 8, 8, 1) and samples.dtype == "float32"
    assert samples.min() >= 0 and samples.max() <= 1
    np.testing.assert_allclose(model.sample(3, seed=4), samples[:3], atol=1e-5)
    last = model.generate(noise.row_seeds(4, Stream.SAMPLING, 101, 1))
    np.testing.assert_allclose(last.images[0], samples[101], atol=1e-5)
    other = model.sample(3, seed=5)
    assert np.abs(other - samples[:3]).max() > 1e-3
    assert len(np.unique(samples.round(5), axis=0)) == 102


def test_samples_are_made_from_the_pseudoinputs_they_come_with(trained):
    model = trained.model
    seeds = noise.row_seeds(0, Stream.SAMPLING, 0, 4)
    samples = model.generate(seeds)
    prior_noise = noise.normal(noise.fork(seeds, noise.GenerationNoise.PSEUDOINPUT), model.prior.sample_noise_size())
    decoded = model.pseudoinput.decode(model.prior.sample(prior_noise))
    np.testing.assert_allclose(samples.pseudoinputs, decoded, atol=1e-5)
    assert np.min(samples.pseudoinputs) >= 0 and np.max(samples.pseudoinputs) <= 1


def test_at_temperature_zero_nothing_is_drawn(ladder, tiny, images):
    samples = ladder.sample(3, temperature=0.0)
    np.testing.assert_allclose(samples[1:], samples[:1].repeat(2, axis=0), atol=1e-6)
    assert np.abs(ladder.sample(3)[1:] - samples[1:]).max() > 1e-4
    model = tiny(prior="standard")
    model.adapt(images())
    samples = model.sample(3, temperature=0.0, prior_temperature=0.0)
    np.testing.assert_allclose(samples[1:], samples[:1].repeat(2, axis=0), atol=1e-6)
    warm = model.generate(noise.row_seeds(0, Stream.SAMPLING, 0, 3), temperature=0.0)
    assert np.abs(warm.pseudoinputs[1] - warm.pseudoinputs[0]).max() > 1e-3


def test_pixels_are_drawn_or_the_mean(tiny):
    model = tiny(pseudoinput="none", likelihood="discretized_logistic_mixture", mixtures=3)
    draw, again, mean = (model.sample(4, pixels=pixels) for pixels in ("draw", "draw", "mean"))
    np.testing.assert_array_equal(again, draw)
    assert np.abs(draw - mean).max() > 0.1
    noise_z = noise.normals(
        noise.fork(noise.row_seeds(0, Stream.SAMPLING, 0, 4), noise.GenerationNoise.LATENTS),
        model.top_down.latent_shapes,
    )
    expected = model.likelihood.distribution(model.top_down(noise_z)[0]).mean()
    np.testing.assert_allclose(mean, (expected + 1) / 2, atol=1e-5)
    cold = model.sample(4, temperature=0.0)
    np.testing.assert_allclose(cold, cold[:1].repeat(4, axis=0), atol=1e-6)
    np.testing.assert_allclose(cold, model.sample(4, temperature=0.0, pixels="mean"), atol=1e-6)


def test_the_diffusion_prior_takes_the_steps_asked_for(trained):
    model = trained.model
    seeds = noise.row_seeds(0, Stream.SAMPLING, 0, 2)
    default, same, other = (model.generate(seeds, steps=steps).pseudoinputs for steps in (None, 3, 1))
    np.testing.assert_array_equal(default, same)
    assert np.abs(default - other).max() > 1e-4


# Mixed precision


@pytest.mark.parametrize("pseudoinput", ["dct", "learnable"])
def test_pseudoinputs_and_noise_keep_float32_in_a_mixed_model(tiny, images, pseudoinput):
    """The model's call would turn weights into bfloat16: what the prior is given must not notice."""
    exact, mixed = (tiny(dtype=dtype, pseudoinput=pseudoinput) for dtype in ("float32", "mixed_bfloat16"))
    exact.adapt(images())
    exact.pseudoinput.log_var.assign_add(tf.random.stateless_normal((3, 3, 1), (0, 0)))
    mixed.set_weights(exact.get_weights())
    seen = {}

    def record(model):
        bound, decode = model.prior.negative_bound, model.pseudoinput.decode
        seen[model.name] = found = []
        model.prior.negative_bound = lambda u, *rest: found.extend([u, rest[0]]) or bound(u, *rest)
        model.pseudoinput.decode = lambda u: (found.append(decode(u)), found[-1])[1]
        return model(images())

    elbo, rounded = record(exact), record(mixed)
    for expected, actual in zip(seen[exact.name], seen[mixed.name], strict=True):
        assert actual.dtype == "float32"
        np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(
        mixed.pseudoinput(images() / np.float32(255)), exact.pseudoinput(images() / np.float32(255))
    )
    assert {values.dtype.name for values in rounded} == {"float32"}
    np.testing.assert_allclose(rounded.negative_elbo, elbo.negative_elbo, rtol=0.05)
    inference = mixed.infer(images())
    assert {value.dtype.name for value in without_features(inference)} == {"float32"}
    assert mixed.bottom_up.compute_dtype == mixed.prior.unet.compute_dtype == "bfloat16"
    assert {weight.dtype for weight in mixed.trainable_weights} == {"float32"}


# Mistakes


@pytest.mark.parametrize("shape", [(4, 9, 9, 1), (4, 8, 8, 3), (4, 8, 8)])
def test_images_of_another_shape_are_refused(ladder, shape):
    message = f"takes images \\[N, 8, 8, 1\\], got \\({', '.join(map(str, shape))}\\)"
    for use in (ladder, ladder.infer, ladder.reconstruct):
        with pytest.raises(ValueError, match=message):
            use(np.zeros(shape, "uint8"))


def test_images_in_another_range_are_refused(ladder, images):
    ladder.compile()
    wrong = images().astype("float32")
    message = "Images must be uint8, or floats in \\[0, 1\\]: divide 0..255 by 255"
    for use in (ladder, ladder.infer, ladder.evaluate, ladder.predict):
        with pytest.raises(ValueError, match=message):
            use(wrong)
    for use in (ladder.train_on_batch, ladder.test_on_batch, ladder.predict_on_batch):
        with pytest.raises(ValueError, match=message):
            use(wrong)
    for use in (ladder.evaluate, ladder.predict):  # a graph finds it, and its traceback stays away
        with pytest.raises(ValueError, match=f"^{message}.$"):
            use(tf.data.Dataset.from_tensors(wrong), verbose=0)


@pytest.mark.parametrize(
    ("image_shape", "scales"), [((8, 6, 1), (4,)), ((8, 8, 1), (3,)), ((8, 8, 1), (2, 4)), ((8, 8, 1), (4, 4))]
)
def test_sizes_that_do_not_fit_are_refused(image_shape, scales):
    with pytest.raises(ValueError, match="Images must be square, and each scale must divide the one before and be"):
        DVPVAE(image_shape, scales, (1,) * len(scales), BernoulliLikelihood())


@pytest.mark.parametrize("layers", [(1,), (1, 0), (1, 1, 1)])
def test_each_scale_has_layers(layers):
    with pytest.raises(ValueError, match=r"Give each scale at least one layer, got scales \[4, 2\] and layers_per_sc"):
        DVPVAE((8, 8, 1), (4, 2), layers, BernoulliLikelihood())


def test_a_seed_has_32_bits():
    with pytest.raises(ValueError, match="A seed is a whole number from"):
        DVPVAE((8, 8, 1), (4,), (1,), BernoulliLikelihood(), seed=2**31)


def test_a_pseudoinput_without_a_prior_is_refused():
    for parts in ({"pseudoinput": DownsamplePseudoinput(3)}, {"prior": StandardPrior()}):
        with pytest.raises(ValueError, match="Give both a pseudoinput and its prior, or neither"):
            DVPVAE((8, 8, 1), (4,), (1,), BernoulliLikelihood(), **parts)


def test_a_prior_that_clips_takes_no_unbounded_pseudoinput():
    parts = (8, 8, 1), (4,), (1,), BernoulliLikelihood(), LearnablePseudoinput(3)
    message = "The u of a LearnablePseudoinput leaves .-1, 1., to which its prior clips: give DiffusionPrior.clip=False"
    with pytest.raises(ValueError, match=message):
        DVPVAE(*parts, DiffusionPrior(blocks=1))


def test_a_binary_encoder_input_needs_a_binary_target():
    with pytest.raises(ValueError, match="binary_encoder_input needs a BernoulliLikelihood"):
        DVPVAE((8, 8, 1), (4,), (1,), DiscretizedLogisticMixtureLikelihood(2), binary_encoder_input=True)


def test_a_part_that_is_given_as_frozen_is_frozen():
    parts = {
        "pseudoinput": LearnablePseudoinput(3, trainable=False),
        "prior": DiffusionPrior(blocks=1, clip=False, trainable=False),
    }
    model = DVPVAE((8, 8, 1), (4,), (1,), BernoulliLikelihood(), channels=8, **parts)
    for one in (model, DVPVAE.from_config(model.get_config())):
        assert one.trainable_variables
        assert not [weight.path for part in parts for weight in getattr(one, part).variables if weight.trainable]


# Presets


def test_arguments_of_the_constructor_change_a_preset():
    model = DVPVAE.from_preset("mnist5k", channels=8, hidden_channels=4, encoder_blocks=1, layers_per_scale=(1, 1))
    assert (model.bottom_up.channels, model.bottom_up.hidden_channels, model.num_layers) == (8, 4, 2)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("mnist", 646_371),
        ("omniglot", 1_288_563),
        ("cifar10", 19_448_338),
        ("mnist_ladder", 598_497),
        ("omniglot_ladder", 1_048_505),
        ("mnist_vamp", 968_701),
        ("cifar10_vamp", 20_516_216),
        pytest.param("cifar10_depth20", 23_712_354, marks=pytest.mark.slow),
        pytest.param("cifar10_depth28", 31_624_114, marks=pytest.mark.slow),
        pytest.param("cifar10_depth36", 39_535_874, marks=pytest.mark.slow),
        pytest.param("cifar10_depth44", 47_447_634, marks=pytest.mark.slow),
        pytest.param("cifar10_vdvae", 37_823_468, marks=pytest.mark.slow),
    ],
)
def test_presets_have_the_papers_number_of_parameters(preset, parameters):
    model = DVPVAE.from_preset(preset, seed=7)
    assert sum(np.prod(weight.shape) for weight in model.trainable_weights) == model.num_parameters == parameters
    assert model.seed == 7
