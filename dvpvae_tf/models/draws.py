"""One draw of u and z for an image, the terms of its negative ELBO and its importance weight; for graphs."""

import math
from typing import NamedTuple

import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.models.dvpvae import DVPVAE
from dvpvae_tf.models.outputs import Features, Inference
from dvpvae_tf.noise import InferenceNoise
from dvpvae_tf.priors import DiffusionPrior, LabelledMixturePrior
from dvpvae_tf.priors.terms import PriorEstimate


class ImageData(NamedTuple):
    """`Features` of images, and the targets of the likelihood, float32 `[N, D, D, C]`; once for all draws."""

    features: Features
    target: tf.Tensor


class Draw(NamedTuple):
    """One draw of u, its diffusion trajectory and z for each row. Log-probabilities are float32 `[N]`, in nats.

    Attributes:
        inference: u and z.
        log_likelihood: log p(x|z).
        prior_estimate: estimates of log r(u), or None for the Ladder VAE.
        log_posterior_u: log r(u|x), or None for the Ladder VAE.
        time_noise: standard normal, for one time of the continuous-time diffusion and its noise; None without.
    """

    inference: Inference
    log_likelihood: tf.Tensor
    prior_estimate: PriorEstimate | None
    log_posterior_u: tf.Tensor | None
    time_noise: tf.Tensor | None


def image_data(model: DVPVAE, images: tf.Tensor, seeds: tf.Tensor) -> ImageData:
    """Computes what all draws of an image share.

    Args:
        model: `DVPVAE`.
        images: float32 `[N, D, D, C]` in [0, 1].
        seeds: int32 `[N, 2]`, one key an image, for its binary draw.

    Returns:
        `ImageData`.
    """
    encoder_input, target = model.encoder_input_and_target(images, seeds)
    return ImageData(model.extract_features(encoder_input), target)


def tile(data: ImageData, times: int | tf.Tensor) -> ImageData:
    """Tiles a batch of N images.

    Args:
        data: of N images.
        times: how often.

    Returns:
        `ImageData` with N times `times` rows. The components of a VampPrior are not tiled.
    """
    images = data._replace(features=data.features._replace(top_components=None))
    tiled = tf.nest.map_structure(lambda value: None if value is None else tf.tile(value, [times, 1, 1, 1]), images)
    return tiled._replace(features=tiled.features._replace(top_components=data.features.top_components))


def draw(model: DVPVAE, data: ImageData, seeds: tf.Tensor, steps: int | None) -> Draw:
    """Draws u, its trajectory and z.

    Args:
        model: `DVPVAE`.
        data: of N images.
        seeds: int32 `[N, 2]`, one key a row.
        steps: T, as `model.check_steps` gives it.

    Returns:
        `Draw`.
    """
    prior = model.prior
    sizes = (0, 0) if prior is None else (prior.bound_noise_size, prior.estimate_noise_size(steps))
    shapes = [*((size,) for size in sizes), *model.latent_noise_shapes]
    time_noise, estimate_noise, *latent_noise = noise.normals(noise.fork(seeds, InferenceNoise.DRAW), shapes)
    inference = model.walk(data.features, latent_noise)
    log_likelihood = model.likelihood.distribution(inference.likelihood_params).log_prob(data.target)
    if prior is None or model.pseudoinput is None:
        return Draw(inference, log_likelihood, None, None, None)
    prior_estimate = prior.estimate(inference.pseudoinput, estimate_noise, steps)
    log_posterior_u = model.pseudoinput.log_prob(inference.pseudoinput, data.features.pseudoinput_mean)
    return Draw(inference, log_likelihood, prior_estimate, log_posterior_u, time_noise)


def terms_of_draw(model: DVPVAE, drawn: Draw) -> dict:
    """Splits the negative ELBO (Eq. 15) at given draws into the KL of each layer and each term of the prior.

    The prior has the T steps of the draws (Eq. 31).

    Args:
        model: `DVPVAE`.
        drawn: of N rows.

    Returns:
        dict of float32 tensors in nats: "reconstruction" and "negative_elbo" `[N]`, "kl_z" `[N, L]`, and "kl_u", a dict
        of `[N]` as in `Evaluation`.
    """
    reconstruction, kl_z, kl_u = -drawn.log_likelihood, tf.stack(drawn.inference.kl, axis=1), {}
    if drawn.prior_estimate is not None and model.pseudoinput is not None:
        entropy = tf.zeros_like(reconstruction) + model.pseudoinput.entropy()
        kl_u = drawn.prior_estimate.terms._asdict() | {"negative_entropy": -entropy}
    total = tf.add_n([reconstruction, tf.reduce_sum(kl_z, axis=1), *kl_u.values()])
    return {"reconstruction": reconstruction, "kl_z": kl_z, "kl_u": kl_u, "negative_elbo": total}


def negative_elbo_terms(model: DVPVAE, images: tf.Tensor, seeds: tf.Tensor, steps: int | None = None) -> dict:
    """Draws once for each image, and gives its negative ELBO of T steps and the three sums that it is made of.

    It draws itself and adds up what `terms_of_draw` gives: for exported models and `Evaluator.negative_elbo`.

    Args:
        model: `DVPVAE`.
        images: float32 `[N, D, D, C]` in [0, 1].
        seeds: int32 `[N, 2]`, one key an image, see `dvpvae_tf.noise.row_seeds`.
        steps: T; None takes the prior's own.

    Returns:
        dict of float32 tensors `[N]` in nats: "negative_elbo" and its terms, "reconstruction", "kl_z" and
        "kl_u" (0 for the Ladder VAE).

    Raises:
        ValueError: if `steps` is given for a model without a diffusion prior.
    """
    drawn = draw(model, image_data(model, images, seeds), seeds, model.check_steps(steps))
    terms = terms_of_draw(model, drawn)
    terms["kl_z"] = tf.reduce_sum(terms["kl_z"], axis=1)
    terms["kl_u"] = sum_of_kl_u(terms)
    return terms


def sum_of_kl_u(terms: dict) -> tf.Tensor:
    """Adds up the KL of u.

    Args:
        terms: what `terms_of_draw` gives.

    Returns:
        float32 `[N]`, nats; 0 for the Ladder VAE.
    """
    return tf.add_n([tf.zeros_like(terms["reconstruction"]), *terms["kl_u"].values()])


def continuous_time_diffusion(model: DVPVAE, drawn: Draw, start: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Estimates the diffusion term in continuous time (Eq. 31) at one time a row, uniform in a stratum of [0, 1].

    Args:
        model: `DVPVAE` with a diffusion prior.
        drawn: of N rows.
        start: float32 `[N]`, where the stratum of a row starts.
        length: float32 scalar, the length of each stratum.

    Returns:
        float32 `[N]`, nats.
    """
    u = drawn.inference.pseudoinput
    assert isinstance(model.prior, DiffusionPrior) and drawn.time_noise is not None
    time = start + length * noise.to_uniform(drawn.time_noise[:, 0])
    return model.prior.diffusion_loss(u, time, tf.reshape(drawn.time_noise[:, 1:], tf.shape(u)))


def importance_log_weight(drawn: Draw) -> tf.Tensor:
    """Computes log p(x, z, u, y) - log q(z, u, y|x), y being the diffusion trajectory, at the draw itself.

    Args:
        drawn: of N rows.

    Returns:
        float32 `[N]`, nats.
    """
    log_weight = drawn.log_likelihood + tf.add_n(drawn.inference.log_ratio)
    return (
        log_weight
        if drawn.prior_estimate is None
        else log_weight + drawn.prior_estimate.log_weight - drawn.log_posterior_u
    )


def label_log_weights(model: DVPVAE, drawn: Draw) -> tf.Tensor:
    """Computes log p(x, z, u|c) - log q(z, u|x) for every class c at the draw itself: r(u|c) takes the place of r(u).

    Args:
        model: `DVPVAE` whose prior is a `LabelledMixturePrior`.
        drawn: of N rows.

    Returns:
        float32 `[N, C]`, nats.
    """
    assert isinstance(model.prior, LabelledMixturePrior) and drawn.prior_estimate is not None
    without_prior = importance_log_weight(drawn) - drawn.prior_estimate.log_weight
    return without_prior[:, tf.newaxis] + model.prior.log_prob_given_labels(drawn.inference.pseudoinput)


def published_log_weight(model: DVPVAE, drawn: Draw, seeds: tf.Tensor, steps: int | None) -> tf.Tensor:
    """Computes what `published` takes for the log-weight: too high, so it gives no bound.

    It has the KL of each layer in closed form and, for a diffusion prior, an estimate of log r(u) that is too high.

    Args:
        model: `DVPVAE`.
        drawn: of N rows.
        seeds: int32 `[N, 2]`, the keys of the draw.
        steps: T, or None without a diffusion prior.

    Returns:
        float32 `[N]`, nats.
    """
    log_weight = drawn.log_likelihood - tf.add_n(drawn.inference.kl)
    if drawn.prior_estimate is None:
        return log_weight
    u, terms = drawn.inference.pseudoinput, drawn.prior_estimate.terms
    if isinstance(model.prior, DiffusionPrior):
        size = model.prior.check_steps(steps) * math.prod(model.prior.shape)
        fresh = noise.normal(noise.fork(seeds, InferenceNoise.PUBLISHED_ESTIMATE), size)
        terms = model.prior.published_terms(u, fresh, steps)
    return log_weight - tf.add_n(terms) - drawn.log_posterior_u
