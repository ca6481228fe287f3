"""Outputs of a model: terms of the bound, features, latents and samples."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypedDict

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf.layers.top_down_block import TopDownStep


class Elbo(NamedTuple):
    """The terms of the negative ELBO of each image (Eq. 15), float32, in nats.

    Attributes:
        reconstruction: `[N]`, -log p(x|z).
        kl_z: `[N, L]`, the KL of each layer, top layer first.
        kl_u: `[N]`, the KL of the pseudoinput, 0 for the Ladder VAE.
    """

    reconstruction: tf.Tensor
    kl_z: tf.Tensor
    kl_u: tf.Tensor

    @property
    def negative_elbo(self) -> tf.Tensor:
        """The sum of the terms, float32 `[N]`, in nats."""
        return self.reconstruction + keras.ops.sum(self.kl_z, axis=1) + self.kl_u


class Features(NamedTuple):
    """Features of images. They depend on the images only, so they are computed once for any number of draws.

    Attributes:
        by_side: features of the bottom-up path, a dict from the side of each scale to `[N, side, side, channels]` in
            the compute dtype.
        pseudoinput_mean: f(x), float32 `[N, d, d, C]`, or None for the Ladder VAE.
        top_components: mean and log-variance of the components of a VampPrior, float32
            `[K, side, side, latent channels]`, or None.
    """

    by_side: dict[int, tf.Tensor]
    pseudoinput_mean: tf.Tensor | None
    top_components: tuple[tf.Tensor, tf.Tensor] | None


class Inference(NamedTuple):
    """The pseudoinput and the latents inferred from images. All lists run over the layers, top layer first.

    Attributes:
        pseudoinput: u, float32 `[N, d, d, C]`, or None for the Ladder VAE.
        steps: list of `TopDownStep`, the Gaussians and the latent of each layer.
        likelihood_params: float32 `[N, D, D, parameters]`.
        top_log_prior: log p(z_L) under a VampPrior, float32 `[N]` in nats, or None. With a VampPrior, `prior_means` and
            `prior_log_vars` of the top layer are the posterior's.
    """

    pseudoinput: tf.Tensor | None
    steps: list[TopDownStep]
    likelihood_params: tf.Tensor
    top_log_prior: tf.Tensor | None = None

    @property
    def posterior_means(self) -> list[tf.Tensor]:
        """Means of q(z_l|z_above, x, u), float32 `[N, side, side, latent channels]`."""
        return [step.posterior_mean for step in self.steps]

    @property
    def posterior_log_vars(self) -> list[tf.Tensor]:
        """Log-variances of q(z_l|z_above, x, u), float32 `[N, side, side, latent channels]`."""
        return [step.posterior_log_var for step in self.steps]

    @property
    def prior_means(self) -> list[tf.Tensor]:
        """Means of p(z_l|z_above, u), float32 `[N, side, side, latent channels]`."""
        return [step.prior_mean for step in self.steps]

    @property
    def prior_log_vars(self) -> list[tf.Tensor]:
        """Log-variances of p(z_l|z_above, u), float32 `[N, side, side, latent channels]`."""
        return [step.prior_log_var for step in self.steps]

    @property
    def latents(self) -> list[tf.Tensor]:
        """The latents drawn, float32 `[N, side, side, latent channels]`."""
        return [step.latent for step in self.steps]

    @property
    def kl(self) -> list[tf.Tensor]:
        """KL of each layer, float32 `[N]` in nats; of the top layer with a VampPrior, the estimate at the latent."""
        if self.top_log_prior is None:
            return [step.kl() for step in self.steps]
        return [-self._top_log_ratio(), *(step.kl() for step in self.steps[1:])]

    @property
    def log_ratio(self) -> list[tf.Tensor]:
        """The log-ratio log p(z_l|z_above, u) - log q(z_l|z_above, x, u) at the latents, float32 `[N]` in nats."""
        if self.top_log_prior is None:
            return [step.log_ratio() for step in self.steps]
        return [self._top_log_ratio(), *(step.log_ratio() for step in self.steps[1:])]

    def _top_log_ratio(self) -> tf.Tensor:
        return self.top_log_prior - self.steps[0].posterior_log_prob()


class Latents(NamedTuple):
    """The latents of images, as `model.encode` gives and `model.decode` takes them. None stands for one to be drawn.

    `Latents(u=u)` has u alone, `Latents(z=z[:3])` the z of the top three layers alone.

    Attributes:
        u: pseudoinput, float32 `[N, d, d, C]`; None for the Ladder VAE, too.
        z: latents, top layer first, each float32 `[N, side, side, latent channels]` or None. Layers after the last one
            of the list count as None.
    """

    u: np.ndarray | tf.Tensor | None = None
    z: Sequence[np.ndarray | tf.Tensor | None] = ()


class Samples(NamedTuple):
    """Generated images and the pseudoinputs they came from, decoded, both float32 `[N, D, D, C]` in [0, 1].

    `pseudoinputs` is None for the Ladder VAE.
    """

    images: tf.Tensor
    pseudoinputs: tf.Tensor | None


def check_pixels(pixels: str) -> None:
    """Checks the option `pixels` of sampling.

    Args:
        pixels: see `SamplingOptions`.

    Raises:
        ValueError: if it is neither "draw" nor "mean".
    """
    if pixels not in ("draw", "mean"):
        raise ValueError(f'pixels is {pixels!r}: give "draw" or "mean".')


class SamplingOptions(TypedDict, total=False):
    """The options of sampling, all of them optional.

    Attributes:
        temperature: at least 0, factor of the standard deviation of every p(z_l|z_above, u) and of the scale of the
            logistic mixture; 1 by default. At 0 there is no noise after u, whatever `pixels` is.
        prior_temperature: at least 0, factor of the noise of the prior over u; 1 by default. A diffusion prior scales
            the noise of each step and of u given y_0, not that of its start y_1.
        steps: T of the diffusion prior, at least 1; the prior's own by default. z does not depend on it.
        pixels: "draw" (the default) draws x from the logistic mixture p(x|z), independently for each pixel: a sample of
            the model, which looks speckled. "mean" takes the mean of p(x|z): a better picture, but no sample, so that
            distances between samples and images need "draw". Of a Bernoulli likelihood both are the mean.
        label: the class to draw from, for a model whose prior is a `LabelledMixturePrior`: its number from 0 on, or its
            name; None draws from all.
        pseudoinput: one u for all images, `[d, d, C]`, such as `model.encode(images).u[0]`; None draws u. Beside it,
            `steps` and `prior_temperature` have no effect and are refused.
    """

    temperature: float
    prior_temperature: float
    steps: int | None
    pixels: Literal["draw", "mean"]
    label: int | str | None
    pseudoinput: np.ndarray | tf.Tensor | None
