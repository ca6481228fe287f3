"""The top-down path, from the top latent to the parameters of the likelihood (Section 4.2 and 4.3, Figure 2a right)."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from dvpvae_tf.layers.convolution import MemoryEfficientConv2D
from dvpvae_tf.layers.pseudoinputs import resize_bilinear
from dvpvae_tf.layers.shape import Shape
from dvpvae_tf.layers.shared_trace import SharedTrace
from dvpvae_tf.layers.top_down_block import TopDownBlock, TopDownStep

LIKELIHOOD_INPUTS = ("all_latents", "last_latent", "last_features")


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class TopDown(keras.layers.Layer):
    """The stochastic layers from coarse to fine, and the map from them to the parameters of the likelihood.

    Called as `top_down(noise, condition=None, encoder_features=None, top_features=None, temperature=1.0, latents=())`,
    it walks down once and gives the parameters of the likelihood, float32 `[N, D, D, output_channels]`, and the list of
    `TopDownStep`s, top layer first. One walk serves all uses: at the scales whose `encoder_features` are given z is
    drawn from the posterior, elsewhere from the prior; `top_features` are for the top layer alone. `condition` is the
    decoded pseudoinput, float32 `[N, D, D, C]` in [0, 1]. `latents` are the z of the first layers that are given rather
    than drawn; None among them stands for one that is drawn.

    Args:
        image_size: D.
        scales: sides of the latents, fine to coarse; each divides the one before.
        layers_per_scale: the number of stochastic layers at each scale.
        channels: channels of the features.
        hidden_channels: channels of the residual blocks' bottleneck.
        latent_channels: channels of each z.
        output_channels: parameters of the likelihood a pixel.
        likelihood_input: what the likelihood sees: "all_latents", their sum (Eq. 18: latent aggregation),
            "last_latent", z_1 alone (Eq. 21), or "last_features", those that leave the last layer (Eq. 22).
        gaussian_top_prior: whether the top layer has a Gaussian prior, as the others have. False is for a VampPrior in
            its place (Eq. 7).
        **kwargs: passed to `keras.layers.Layer`.

    Raises:
        ValueError: if `likelihood_input` is none of these.
    """

    def __init__(
        self,
        image_size: int,
        scales: Sequence[int],
        layers_per_scale: Sequence[int],
        channels: int,
        hidden_channels: int,
        latent_channels: int,
        output_channels: int,
        likelihood_input: str = "all_latents",
        gaussian_top_prior: bool = True,
        **kwargs: Any,
    ):
        super().__init__(autocast=False, **kwargs)  # noise and latents stay float32
        self.image_size = image_size
        self.scales = tuple(scales)
        self.layers_per_scale = tuple(layers_per_scale)
        self.channels = channels
        self.hidden_channels = hidden_channels
        self.latent_channels = latent_channels
        self.output_channels = output_channels
        if likelihood_input not in LIKELIHOOD_INPUTS:
            raise ValueError(f"likelihood_input is {likelihood_input!r}: give one of {', '.join(LIKELIHOOD_INPUTS)}.")
        self.likelihood_input = likelihood_input
        self.gaussian_top_prior = gaussian_top_prior
        # The side of each stochastic layer's z, top layer first.
        self.sides = [
            side
            for side, layers in zip(self.scales[::-1], self.layers_per_scale[::-1], strict=True)
            for _ in range(layers)
        ]
        self._call = SharedTrace()
        self.blocks = [
            TopDownBlock(
                channels,
                hidden_channels,
                latent_channels,
                has_output=likelihood_input == "last_features" or index < len(self.sides) - 1,
                has_prior=gaussian_top_prior or index > 0,
                residual_gain=len(self.sides) ** -0.5,
                dtype=self.dtype_policy,
                name=f"block_{index}",
            )
            for index in range(len(self.sides))
        ]
        if likelihood_input != "last_features":
            self.aggregation = MemoryEfficientConv2D(channels, 1, dtype=self.dtype_policy, name="aggregation")
        self.conv_out = MemoryEfficientConv2D(output_channels, 3, dtype=self.dtype_policy, name="conv_out")

    def build(
        self,
        noise_shape: list[Shape] | None,
        condition_shape: Shape | None = None,
        encoder_features_shape: dict[int, Shape] | None = None,
        top_features_shape: Shape | None = None,
        temperature_shape: Shape | None = None,
        latents_shape: list[Shape] | None = None,
    ) -> None:
        for side, block in zip(self.sides, self.blocks, strict=True):
            condition = None if condition_shape is None else (None, side, side, condition_shape[-1])
            block.build((None, side, side, self.channels), condition_shape=condition)
        image = (None, self.image_size, self.image_size)
        if self.likelihood_input != "last_features":
            self.aggregation.build((*image, self.latent_channels))
        self.conv_out.build((*image, self.channels))

    @property
    def latent_shapes(self) -> list[tuple[int, int, int]]:
        """The shape `(side, side, channels)` of each stochastic layer's z, top layer first."""
        return [(side, side, self.latent_channels) for side in self.sides]

    def call(
        self,
        noise: Sequence[tf.Tensor],
        condition: tf.Tensor | None = None,
        encoder_features: dict[int, tf.Tensor] | None = None,
        top_features: tf.Tensor | None = None,
        temperature: float | tf.Tensor = 1.0,
        latents: Sequence[tf.Tensor | None] = (),
    ) -> tuple[tf.Tensor, list[TopDownStep]]:
        features = self._first_features(tf.shape(noise[0])[0])
        conditions = self._pooled(condition)
        encoder_features = encoder_features or {}
        given = [*latents, *[None] * (len(self.blocks) - len(latents))]
        steps: list[TopDownStep] = []
        for side, block, layer_noise, latent in zip(self.sides, self.blocks, noise, given, strict=True):
            features = resize_bilinear(features, side)
            of_encoder = encoder_features.get(side)
            step = self._call(
                block,
                features,
                condition=conditions.get(side),
                encoder_features=top_features if not steps and top_features is not None else of_encoder,
                noise=layer_noise,
                temperature=temperature,
                latent=latent,
            )
            features = step.features
            steps.append(step)
        return self._likelihood_parameters(features, [step.latent for step in steps]), steps

    def _first_features(self, rows):
        return tf.ones([rows, self.sides[0], self.sides[0], self.channels], self.compute_dtype)

    def top_posterior(self, encoder_features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the Gaussian q(z_L|x).

        Args:
            encoder_features: `[N, side, side, channels]`, of the coarsest scale.

        Returns:
            Its mean and log-variance, float32 `[N, side, side, latent channels]`.
        """
        return self.blocks[0].infer(self._first_features(tf.shape(encoder_features)[0]), encoder_features)

    def _pooled(self, condition):
        """The decoded pseudoinput at each scale, from [0, 1] to [-1, 1]."""
        if condition is None:
            return {}
        condition = tf.cast(2.0 * condition - 1.0, self.compute_dtype)
        factors = {side: self.image_size // side for side in self.scales}
        return {side: tf.nn.avg_pool2d(condition, factor, factor, "VALID") for side, factor in factors.items()}

    def _likelihood_parameters(self, features, latents):
        if self.likelihood_input == "all_latents":
            features = self.aggregation(self._aggregate(latents))
        elif self.likelihood_input == "last_latent":
            features = self.aggregation(resize_bilinear(latents[-1], self.image_size))
        else:
            features = resize_bilinear(features, self.image_size)
        return tf.cast(self.conv_out(features), tf.float32)

    def _aggregate(self, latents):
        """1 / sqrt(L) times the sum of all latents at the size of the image (Eq. 18), summed within a scale first."""
        total = 0.0
        for scale in self.scales:
            of_scale = tf.add_n([z for z, side in zip(latents, self.sides, strict=True) if side == scale])
            total += resize_bilinear(of_scale, self.image_size)
        return total / len(latents) ** 0.5

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "image_size": self.image_size,
            "scales": self.scales,
            "layers_per_scale": self.layers_per_scale,
            "channels": self.channels,
            "hidden_channels": self.hidden_channels,
            "latent_channels": self.latent_channels,
            "output_channels": self.output_channels,
            "likelihood_input": self.likelihood_input,
            "gaussian_top_prior": self.gaussian_top_prior,
        }
