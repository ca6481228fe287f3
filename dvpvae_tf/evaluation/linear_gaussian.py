"""A small model whose log p(x) is known exactly, to test the bounds with.

Its diffusion prior over u has the optimal denoiser of a Gaussian, and its map from u and z to x is linear. So x is
Gaussian for every number of diffusion steps T. The rest is the code of every `DVPVAE`.
"""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from dvpvae_tf import noise
from dvpvae_tf.layers.pseudoinputs import DownsamplePseudoinput
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.models.likelihoods import Likelihood
from dvpvae_tf.priors import DiffusionPrior
from dvpvae_tf.priors.noise_schedule import over_elements

SIDE = 4


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class GaussianDiffusionPrior(DiffusionPrior):
    """A diffusion prior that predicts the noise optimally for u ~ N(mean, variance I), without a network.

    Args:
        mean: mean of each element of u.
        variance: variance of each element of u.
        **kwargs: passed to `DiffusionPrior`. Predictions of u are not clipped.
    """

    def __init__(self, mean: float = 0.1, variance: float = 0.09, **kwargs: Any):
        super().__init__(**kwargs | {"clip": False})
        self.mean = mean
        self.variance = variance

    def build_network(self, u_shape: tuple[int | None, ...]) -> None:
        """Does nothing: the predictor has no weights."""

    def predict_noise(self, y: tf.Tensor, time: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Computes the conditional mean of the noise given y_t.

        Args:
            y: y_t, float32 `[N, d, d, C]`.
            time: t, float32 `[N]`.
            training: not used.

        Returns:
            float32 `[N, d, d, C]`.
        """
        time = over_elements(time)
        alpha, sigma = self.schedule.alpha(time), self.schedule.sigma(time)
        return sigma * (y - alpha * self.mean) / (alpha**2 * self.variance + sigma**2)

    def moments(self, steps: int) -> tuple[float, float]:
        """Computes the mean and variance of each element of u after T steps, by a linear recursion (Eq. 27 to 30).

        Args:
            steps: T.

        Returns:
            The mean and the variance.
        """
        gamma = self.schedule.gamma(np.linspace(1.0, 0.0, steps + 1))
        alpha, sigma_squared = (1 + np.exp(gamma)) ** -0.5, 1 / (1 + np.exp(-gamma))
        mean, variance = 0.0, 1.0
        for t, s in zip(range(steps), range(1, steps + 1), strict=True):
            c = -np.expm1(gamma[s] - gamma[t])
            # u_hat = constant + gain y_t
            gain = alpha[t] * self.variance / (alpha[t] ** 2 * self.variance + sigma_squared[t])
            constant = self.mean * (1 - alpha[t] * gain)
            slope = alpha[s] / alpha[t] * (1 - c) + c * alpha[s] * gain
            mean = slope * mean + c * alpha[s] * constant
            variance = slope**2 * variance + c * sigma_squared[s]
        return mean / alpha[-1], (variance + sigma_squared[-1]) / alpha[-1] ** 2

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mean": self.mean, "variance": self.variance}


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class GaussianLikelihood(Likelihood):
    """p(x|z) = N(parameters, deviation^2 I) over images in [0, 1].

    It has the methods of `dvpvae_tf.models.likelihoods.Likelihood`. Images are the means, which may leave [0, 1].

    Args:
        deviation: standard deviation of each pixel.
    """

    def __init__(self, deviation: float = 0.1):
        self.deviation = deviation

    def num_parameters(self, channels: int) -> int:
        return channels

    def target(self, images: tf.Tensor, uniform: tf.Tensor | None = None) -> tf.Tensor:
        return images

    def distribution(
        self, parameters: tf.Tensor, temperature: float | tf.Tensor = 1.0
    ) -> tfp.distributions.Distribution:
        return tfp.distributions.Independent(
            tfp.distributions.Normal(parameters, self.deviation * temperature), reinterpreted_batch_ndims=3
        )

    def mean_images(self, parameters: tf.Tensor) -> tf.Tensor:
        return parameters

    def images(
        self, parameters: tf.Tensor, seeds: tf.Tensor | None = None, temperature: float | tf.Tensor = 1.0
    ) -> tf.Tensor:
        return parameters

    def pixel_log_probs(self, parameters: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tfp.distributions.Normal(parameters, self.deviation).log_prob(target), axis=-1)

    def draw(self, parameters: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        drawn = noise.normal(seeds, math.prod(parameters.shape[1:]))
        return parameters + self.deviation * tf.reshape(drawn, tf.shape(parameters))

    def get_config(self) -> dict[str, Any]:
        return {"deviation": self.deviation}


def make_linear_gaussian_model(steps: int = 10, deviation: float = 0.15, seed: int = 0) -> DVPVAE:
    """Makes the model: 4x4 images, two stochastic layers of 2x2 and 4x4, pseudoinputs of 2x2.

    The weights of p(x, z|u) are fixed, so that it is linear and Gaussian. The weights of the posteriors can be trained:
    a bound holds for any posterior.

    Args:
        steps: T of the diffusion prior.
        deviation: standard deviation of p(x|z); pixels are in [0, 1].
        seed: seed of the weights and of the noise of training.

    Returns:
        The model.
    """
    keras.utils.set_random_seed(seed)
    model = DVPVAE(
        image_shape=(SIDE, SIDE, 1),
        scales=(4, 2),
        layers_per_scale=(1, 1),
        likelihood=GaussianLikelihood(deviation),
        pseudoinput=DownsamplePseudoinput(2, initial_log_var=-3.0),
        prior=GaussianDiffusionPrior(channels=16, blocks=1, gamma_min=-4.0, gamma_max=5.0, steps=steps),
        channels=8,
        hidden_channels=8,
        encoder_blocks=1,
        input_mean=127.5,
        input_std=40.0,
        seed=seed,
    )
    for block in model.top_down.blocks:
        _make_linear(block)
    _set(model.top_down.aggregation, np.full((1, 1, 1, 8), 2**0.5 / 8))
    average = np.pad(np.full((1, 1, 8, 1), 0.2), ((1, 1), (1, 1), (0, 0), (0, 0))) + np.full((3, 3, 8, 1), 0.01)
    _set(model.top_down.conv_out, average, bias=0.5)
    return model


def _make_linear(block: Any) -> None:
    """Fixes the prior of a block: its mean is linear in the pooled u and the features, its variance is constant."""
    kernel = np.zeros((1, 1, *block.prior.skip.kernel.shape[2:]))
    kernel[..., -1, 0] = 0.5  # from u to the mean of z
    kernel[..., :-1, 0] = np.linspace(-0.1, 0.1, block.channels)
    kernel[..., :-1, 2:] = 0.1
    bias = np.zeros(kernel.shape[-1])
    bias[1] = -2.0  # the log-variance of z
    _set(block.prior.skip, kernel, bias)
    _set(block.prior.convolutions[-1], 0.0)
    block.prior.trainable = False
    if block.has_output:
        _set(block.latent_projection, np.linspace(-0.5, 0.5, block.channels)[None, None, None])
        _set(block.residual.convolutions[-1], 0.0)
        block.residual.trainable = False


def _set(layer: keras.layers.Layer, kernel: np.ndarray | float, bias: np.ndarray | float = 0.0) -> None:
    layer.kernel.assign(np.broadcast_to(kernel, layer.kernel.shape))
    layer.bias.assign(np.broadcast_to(bias, layer.bias.shape))
    layer.trainable = False


def distribution_of_images(model: DVPVAE, steps: int) -> Any:
    """Computes p(x) of the ancestral process of T steps exactly.

    Args:
        model: made by `make_linear_gaussian_model`.
        steps: T.

    Returns:
        A frozen `scipy.stats.multivariate_normal` over the 16 pixels, in float64; its log densities are in nats.
    """
    assert isinstance(model.prior, GaussianDiffusionPrior)
    mean, variance = model.prior.moments(steps)
    size = math.prod(model.prior.shape)
    return distribution_given_pseudoinputs(model, np.full(size, mean), variance * np.eye(size))


def distribution_given_pseudoinputs(model: DVPVAE, mean: np.ndarray, covariance: np.ndarray) -> Any:
    """Computes p(x) for Gaussian pseudoinputs exactly.

    It finds the matrix of the linear map from u and z to x by applying the model to unit vectors.

    Args:
        model: made by `make_linear_gaussian_model`, with any prior over u.
        mean: `[P]`, of u.
        covariance: `[P, P]`, of u.

    Returns:
        A frozen `scipy.stats.multivariate_normal` over the 16 pixels, in float64; its log densities are in nats.
    """
    assert model.pseudoinput is not None
    deviation = model.likelihood.get_config()["deviation"]
    shapes = model.latent_noise_shapes
    sizes = [math.prod(shape) for shape in shapes]
    probes = np.vstack([np.zeros(sum(sizes)), np.eye(sum(sizes))]).astype("float32")
    u, *noise = (
        part.reshape(-1, *shape) for part, shape in zip(np.split(probes, np.cumsum(sizes)[:-1], 1), shapes, strict=True)
    )
    outputs = model.top_down([tf.constant(part) for part in noise], model.pseudoinput.decode(tf.constant(u)))[0]
    outputs = np.reshape(outputs, [len(probes), -1]).astype("float64")
    constant, slopes = outputs[0], outputs[1:] - outputs[0]
    of_u, of_z = slopes[: sizes[0]], slopes[sizes[0] :]
    total = of_u.T @ covariance @ of_u + of_z.T @ of_z + deviation**2 * np.eye(len(constant))
    return stats.multivariate_normal(constant + mean @ of_u, total)
