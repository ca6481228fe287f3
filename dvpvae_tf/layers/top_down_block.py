"""One stochastic layer of the TopDown path (Figure 2b)."""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from dvpvae_tf.layers.convolution import MemoryEfficientConv2D
from dvpvae_tf.layers.gaussian import log_density
from dvpvae_tf.layers.res_block import ResBlock
from dvpvae_tf.layers.shape import Shape

LOG_VAR_RANGE = (-10.0, 1.0)


class TopDownStep(NamedTuple):
    """The outputs of a `TopDownBlock`: the features for the layer below, z, and the Gaussians of z.

    Features are `[N, h, w, channels]` in the compute dtype, all others `[N, h, w, latent channels]` in float32.

    If z was drawn from the prior, the posterior's parameters are the prior's, so its KL is 0. If the block has no
    prior, the prior's parameters are the posterior's.
    """

    features: tf.Tensor
    latent: tf.Tensor
    prior_mean: tf.Tensor
    prior_log_var: tf.Tensor
    posterior_mean: tf.Tensor
    posterior_log_var: tf.Tensor

    def kl(self) -> tf.Tensor:
        """Computes KL(q(z_l|z_above, x, u) || p(z_l|z_above, u)) in closed form (Eq. 15).

        Returns:
            float32 tensor `[N]`, nats.
        """
        difference = self.posterior_log_var - self.prior_log_var
        distance = keras.ops.square(self.posterior_mean - self.prior_mean) * keras.ops.exp(-self.prior_log_var)
        return 0.5 * keras.ops.sum(keras.ops.exp(difference) + distance - 1.0 - difference, axis=[1, 2, 3])

    def log_ratio(self) -> tf.Tensor:
        """Computes log p(z_l|z_above, u) - log q(z_l|z_above, x, u) at the latent drawn.

        Returns:
            float32 tensor `[N]`, nats; its mean over draws is minus the KL.
        """
        of_prior = log_density(self.latent, self.prior_mean, self.prior_log_var)
        of_posterior = log_density(self.latent, self.posterior_mean, self.posterior_log_var)
        return keras.ops.sum(of_prior - of_posterior, axis=[1, 2, 3])

    def posterior_log_prob(self) -> tf.Tensor:
        """Computes log q(z_l|z_above, x, u) at the latent drawn.

        Returns:
            float32 tensor `[N]`, nats.
        """
        return keras.ops.sum(log_density(self.latent, self.posterior_mean, self.posterior_log_var), axis=[1, 2, 3])


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class TopDownBlock(keras.layers.Layer):
    """One stochastic layer: prior, posterior, a draw of z, features for the layer below (Figure 2b, Section 4.2).

    Called as `block(features, condition=None, encoder_features=None, noise=None, temperature=1.0, latent=None)`, it
    gives a `TopDownStep`. `features` and `encoder_features` are `[N, h, w, channels]`. `condition` is the decoded
    pseudoinput at this side, `[N, h, w, C]` in [-1, 1]. `noise` (standard normal) and `latent` are float32
    `[N, h, w, latent_channels]`. With `encoder_features`, z is drawn from q(z_l|z_above, x, u). Without them it is
    drawn from p(z_l|z_above, u), whose standard deviation `temperature` multiplies. Without `noise` z is the mean.
    Where `latent` is given, z is that.

    Args:
        channels: channels of the features.
        hidden_channels: channels of the bottleneck of the residual blocks.
        latent_channels: channels of z.
        has_output: False leaves out what only the layers below need: in the last layer, if the likelihood sees the
            latents alone (Eq. 18).
        has_prior: False leaves out the prior: in the top layer, if a VampPrior takes its place (Eq. 7). Then
            `encoder_features` must be given.
        residual_gain: factor of the initial weights through which the block adds to the features, sqrt(1 / L).
        **kwargs: passed to `keras.layers.Layer`.
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        latent_channels: int,
        has_output: bool = True,
        has_prior: bool = True,
        residual_gain: float = 1.0,
        **kwargs: Any,
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
        features_shape: Shape,
        condition_shape: Shape | None = None,
        encoder_features_shape: Shape | None = None,
        noise_shape: Shape | None = None,
        temperature_shape: Shape | None = None,
        latent_shape: Shape | None = None,
    ) -> None:
        shape = tuple(features_shape)
        extra = 0 if condition_shape is None else condition_shape[-1]
        if self.has_prior:
            self.prior.build((*shape[:-1], shape[-1] + extra))
        self.posterior.build(shape)
        if self.has_output:
            self.latent_projection.build((*shape[:-1], self.latent_channels))
            self.residual.build(shape)

    def call(
        self,
        features: tf.Tensor,
        condition: tf.Tensor | None = None,
        encoder_features: tf.Tensor | None = None,
        noise: tf.Tensor | None = None,
        temperature: float | tf.Tensor = 1.0,
        latent: tf.Tensor | None = None,
    ) -> TopDownStep:
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
        if latent is None:
            latent = mean if noise is None else mean + temperature * keras.ops.exp(0.5 * log_var) * noise
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

    def infer(self, features: tf.Tensor, encoder_features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the Gaussian q(z_l|z_above, x, u).

        Args:
            features: `[N, h, w, channels]`, the features that enter the block.
            encoder_features: features of the bottom-up path, of the same shape.

        Returns:
            The mean and the log-variance, float32 `[N, h, w, latent channels]`.
        """
        features = keras.ops.cast(features, self.compute_dtype)
        features = (features + keras.ops.cast(encoder_features, self.compute_dtype)) / 2**0.5
        return self._gaussian(self.posterior(features))

    def _gaussian(self, outputs):
        mean, log_var = keras.ops.split(keras.ops.cast(outputs, "float32"), 2, axis=-1)
        return mean, keras.ops.clip(log_var, *LOG_VAR_RANGE)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "channels": self.channels,
            "hidden_channels": self.hidden_channels,
            "latent_channels": self.latent_channels,
            "has_output": self.has_output,
            "has_prior": self.has_prior,
            "residual_gain": self.residual_gain,
        }
