"""One stochastic layer of the TopDown path (Figure 2b)."""

import math
from typing import NamedTuple

import keras

from dvpvae_tf.layers.convolution import MemoryEfficientConv2D
from dvpvae_tf.layers.res_block import ResBlock

LOG_VAR_RANGE = (-10.0, 1.0)
LOG_2_PI = math.log(2.0 * math.pi)


class TopDownStep(NamedTuple):
    """What a `TopDownBlock` gives: the features below it and its Gaussians.

    Features are `[N, h, w, channels]` in the compute dtype, all others `[N, h, w, latent channels]` in float32.

    Where z was drawn from the prior, the posterior's parameters are the prior's, so that its KL is 0. Of a block
    without a prior, the prior's are the posterior's.
    """

    features: object
    latent: object
    prior_mean: object
    prior_log_var: object
    posterior_mean: object
    posterior_log_var: object

    def kl(self):
        """KL(q(z_l|z_above, x, u) || p(z_l|z_above, u)) in closed form (Eq. 15).

        Returns:
            float32 tensor `[N]`, nats.
        """
        difference = self.posterior_log_var - self.prior_log_var
        distance = keras.ops.square(self.posterior_mean - self.prior_mean) * keras.ops.exp(-self.prior_log_var)
        return 0.5 * keras.ops.sum(keras.ops.exp(difference) + distance - 1.0 - difference, axis=[1, 2, 3])

    def log_ratio(self):
        """Computes log p(z_l|z_above, u) - log q(z_l|z_above, x, u) at the latent drawn.

        Returns:
            float32 tensor `[N]`, nats; its mean over draws is minus the KL.
        """
        of_prior = _log_density(self.latent, self.prior_mean, self.prior_log_var)
        of_posterior = _log_density(self.latent, self.posterior_mean, self.posterior_log_var)
        return keras.ops.sum(of_prior - of_posterior, axis=[1, 2, 3])

    def posterior_log_prob(self):
        """Computes log q(z_l|z_above, x, u) at the latent drawn.

        Returns:
            float32 tensor `[N]`, nats.
        """
        return keras.ops.sum(_log_density(self.latent, self.posterior_mean, self.posterior_log_var), axis=[1, 2, 3])


def _log_density(value, mean, log_var):
    """That of a Gaussian, element by element."""
    return -0.5 * (keras.ops.square(value - mean) * keras.ops.exp(-log_var) + log_var + LOG_2_PI)


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class TopDownBlock(keras.layers.Layer):
    """One stochastic layer: prior, posterior, a draw of z, features for the layer below (Figure 2b, Section 4.2).

    Called as `block(features, condition=None, encoder_features=None, noise=None, temperature=1.0)`: z is drawn from
    q(z_l|z_above, x, u) where `encoder_features` are given and from p(z_l|z_above, u) where not; without `noise` it
    is the mean.

    Args:
        channels: int, channels of the features.
        hidden_channels: int, channels of the residual blocks' bottleneck.
        latent_channels: int, channels of z.
        has_output: bool. False leaves out all that only serves the layers below: the last layer when the likelihood
            sees the latents alone (Eq. 18).
        has_prior: bool. False leaves out the prior: the top layer when a VampPrior takes its place (Eq. 7). Then
            `encoder_features` must be given.
        residual_gain: float, factor of the starting weights through which the block adds to the features: sqrt(1 / L).
        **kwargs: passed to `keras.layers.Layer`.
    """

    def __init__(
        self,
        channels,
        hidden_channels,
        latent_channels,
        has_output=True,
        has_prior=True,
        residual_gain=1.0,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)  # noise and latents stay float32
        self.channels = channels
        self.hidden_channels = hidden_channels
        self.latent_channels = latent_channels
        self.has_output = has_output
        self.has_prior = has_prior
        self.residual_gain = residual_gain
        kwargs = {"activation_first": False, "dtype": self.dtype_policy}
        if has_prior:
            prior_channels = 2 * latent_channels + (channels if has_output else 0)
            self.prior = ResBlock(prior_channels, hidden_channels, output_gain=0.0, name="prior", **kwargs)
        self.posterior = ResBlock(2 * latent_channels, hidden_channels, output_gain=0.0, name="posterior", **kwargs)
        if has_output:
            self.latent_projection = MemoryEfficientConv2D(
                channels, 1, gain=residual_gain, dtype=self.dtype_policy, name="latent_projection"
            )
            self.residual = ResBlock(channels, hidden_channels, output_gain=residual_gain, name="residual", **kwargs)

    def build(
        self,
        features_shape,
        condition_shape=None,
        encoder_features_shape=None,
        noise_shape=None,
        temperature_shape=None,
    ):
        shape = tuple(features_shape)
        extra = 0 if condition_shape is None else condition_shape[-1]
        if self.has_prior:
            self.prior.build((*shape[:-1], shape[-1] + extra))
        self.posterior.build(shape)
        if self.has_output:
            self.latent_projection.build((*shape[:-1], self.latent_channels))
            self.residual.build(shape)

    def call(self, features, condition=None, encoder_features=None, noise=None, temperature=1.0):
        features = keras.ops.cast(features, self.compute_dtype)
        if encoder_features is not None:
            mean, log_var = self.infer(features, encoder_features)
            temperature = 1.0
        if self.has_prior:
            prior_mean, prior_log_var, update = self._prior(features, condition)
        else:
            prior_mean, prior_log_var, update = mean, log_var, 0.0
        if encoder_features is None:
            mean, log_var = prior_mean, prior_log_var
        latent = mean
        if noise is not None:
            latent = mean + temperature * keras.ops.exp(0.5 * log_var) * noise
        if self.has_output:
            features = features + update + self.latent_projection(keras.ops.cast(latent, self.compute_dtype))
            features = self.residual(features)
        return TopDownStep(features, latent, prior_mean, prior_log_var, mean, log_var)

    def _prior(self, features, condition):
        if condition is not None:
            condition = keras.ops.cast(condition, self.compute_dtype)
            features = keras.ops.concatenate([features, condition], axis=-1)
        outputs = self.prior(features)
        gaussian, update = keras.ops.split(outputs, [2 * self.latent_channels], axis=-1)
        return (*self._gaussian(gaussian), update)

    def infer(self, features, encoder_features):
        """The Gaussian q(z_l|z_above, x, u).

        Args:
            features: tensor `[N, h, w, channels]`, those that enter the block.
            encoder_features: tensor like `features`, of the bottom-up path.

        Returns:
            Its mean and log-variance, float32 `[N, h, w, latent channels]`.
        """
        features = keras.ops.cast(features, self.compute_dtype)
        features = (features + keras.ops.cast(encoder_features, self.compute_dtype)) / 2**0.5
        return self._gaussian(self.posterior(features))

    def _gaussian(self, outputs):
        mean, log_var = keras.ops.split(keras.ops.cast(outputs, "float32"), 2, axis=-1)
        return mean, keras.ops.clip(log_var, *LOG_VAR_RANGE)

    def get_config(self):
        return {
            **super().get_config(),
            "channels": self.channels,
            "hidden_channels": self.hidden_channels,
            "latent_channels": self.latent_channels,
            "has_output": self.has_output,
            "has_prior": self.has_prior,
            "residual_gain": self.residual_gain,
        }
