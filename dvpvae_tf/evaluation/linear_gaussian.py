"""A model of this library whose log p(x) is known, to hold its bounds against.

Its prior over u predicts the noise of Gaussian pseudoinputs perfectly, and its path from u and z to x is linear: at any
number of diffusion steps T, x is Gaussian. All else is the usual code.
"""

import math

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from dvpvae_tf.layers.pseudoinputs import DownsamplePseudoinput
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.priors import DiffusionPrior

SIDE = 4


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class GaussianDiffusionPrior(DiffusionPrior):
    """The diffusion prior with the best predictor of the noise for u ~ N(mean, variance I), in place of a network.

    Args:
        mean: float.
        variance: float.
        **kwargs: passed to `DiffusionPrior`. Predictions of u are not clipped.
    """

    def __init__(self, mean=0.1, variance=0.09, **kwargs):
        super().__init__(**kwargs | {"clip": False})
        self.mean = mean
        self.variance = variance

    def build_network(self, u_shape):
        """Nothing: the predictor has no weights."""

    def predict_noise(self, y, time, training=False):
        """The expectation of the noise in y_t given y_t; arguments and result as in `DiffusionPrior`."""
        time = tf.reshape(time, [-1, 1, 1, 1])
        alpha, sigma = self.schedule.alpha(time), self.schedule.sigma(time)
        return sigma * (y - alpha * self.mean) / (alpha**2 * self.variance + sigma**2)

    def moments(self, steps):
        """Mean and variance of each element of u under the T-step process, by its linear recursion (Eq. 27 to 30).

        Args:
            steps: int, T.

        Returns:
            Two floats.
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

    def get_config(self):
        return {**super().get_config(), "mean": self.mean, "variance": self.variance}


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class GaussianLikelihood:
    """p(x|z) = N(parameters, deviation^2 I) over images in [0, 1].

    Args:
        deviation: float.
    """

    needs_uniform = False

    def __init__(self, deviation=0.1):
        self.deviation = deviation

    def num_parameters(self, channels):
        """int, decoder outputs a pixel: one mean a channel."""
        return channels

    def target(self, images, uniform=None):
        """The images as they are, float32 `[N, H, W, C]`."""
        return images

    def distribution(self, parameters, temperature=1.0):
        """The distribution of images `[H, W, C]`, its log-probabilities in nats."""
        return tfp.distributions.Independent(
            tfp.distributions.Normal(parameters, self.deviation * temperature), reinterpreted_batch_ndims=3
        )

    def mean_images(self, parameters):
        """The means, which may leave [0, 1]."""
        return parameters

    def images(self, parameters, seeds=None, temperature=1.0):
        """The means, which may leave [0, 1]."""
        return parameters

    def get_config(self):
        """Arguments of the constructor, a dict."""
        return {"deviation": self.deviation}

    @classmethod
    def from_config(cls, config):
        """Makes the likelihood from `get_config`."""
        return cls(**config)


def make_linear_gaussian_model(steps=10, deviation=0.15, seed=0):
    """Makes the model: 4x4 images, two stochastic layers of 2x2 and 4x4, pseudoinputs of 2x2.

    What generates is fixed and linear; its posteriors, which no bound needs to be right, are left to train.

    Args:
        steps: int, T of the diffusion prior.
        deviation: float, standard deviation of p(x|z), pixels being in [0, 1].
        seed: int, of the weights and of the noise of training.

    Returns:
        A `DVPVAE`.
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


def _make_linear(block):
    """Fixes what a block generates with: z has the mean of the pooled u, plus what the features say."""
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


def _set(layer, kernel, bias=0.0):
    layer.kernel.assign(np.broadcast_to(kernel, layer.kernel.shape))
    layer.bias.assign(np.broadcast_to(bias, layer.bias.shape))
    layer.trainable = False


def distribution_of_images(model, steps):
    """Gives p(x) of the T-step process, the path from u and z being measured at unit vectors.

    Args:
        model: made by `make_linear_gaussian_model`.
        steps: int, T.

    Returns:
        A frozen `scipy.stats.multivariate_normal` over the 16 pixels, in float64.
    """
    shapes = model.walk_noise_shapes
    sizes = [math.prod(shape) for shape in shapes]
    probes = np.vstack([np.zeros(sum(sizes)), np.eye(sum(sizes))]).astype("float32")
    u, *noise = (
        part.reshape(-1, *shape) for part, shape in zip(np.split(probes, np.cumsum(sizes)[:-1], 1), shapes, strict=True)
    )
    outputs = model.top_down([tf.constant(part) for part in noise], model.pseudoinput.decode(tf.constant(u)))[0]
    outputs = np.reshape(outputs, [len(probes), -1]).astype("float64")
    constant, slopes = outputs[0], outputs[1:] - outputs[0]
    mean_u, variance_u = model.prior.moments(steps)
    means, variances = np.zeros(len(slopes)), np.ones(len(slopes))
    means[: sizes[0]], variances[: sizes[0]] = mean_u, variance_u
    covariance = slopes.T @ (variances[:, None] * slopes) + model.likelihood.deviation**2 * np.eye(len(constant))
    return stats.multivariate_normal(constant + means @ slopes, covariance)
