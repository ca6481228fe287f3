"""The model: a top-down hierarchical VAE whose priors are conditioned on a pseudoinput (Sections 3 and 4)."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.layers.pseudoinputs import Pseudoinput
from dvpvae_tf.layers.shape import Shape
from dvpvae_tf.models.bottom_up import BottomUp
from dvpvae_tf.models.generative_model import GenerativeModel
from dvpvae_tf.models.likelihoods import BernoulliLikelihood, Likelihood
from dvpvae_tf.models.outputs import Elbo, Features, Inference, Samples, check_pixels
from dvpvae_tf.models.top_down import TopDown
from dvpvae_tf.noise import GenerationNoise, InferenceNoise, Stream
from dvpvae_tf.priors import DiffusionPrior, Prior, VampPrior

SERIALISED_PARTS = ("likelihood", "pseudoinput", "prior", "top_prior")
PARTS = ("bottom_up", "top_down", *SERIALISED_PARTS)


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class DVPVAE(GenerativeModel):
    """The hierarchical VAE with a diffusion-based VampPrior, or, without a pseudoinput, the Ladder VAE (Table 5).

    Images go in as uint8, or float32 in [0, 1], `[N, D, D, C]`. Called as `model(images, seeds=None)` it gives the
    `Elbo` of each image. `BoundModel` has training and evaluation, `GenerativeModel` the other methods that users call.

    Example:
        >>> model = DVPVAE.from_preset("mnist5k")
        >>> model.adapt(train)
        >>> model.compile(dvpvae_tf.FusedAdamax(1e-2, global_clipnorm=5.0, use_ema=True))
        >>> model.fit(train, validation_data=validation, epochs=2)
        >>> images = model.sample(16, temperature=0.9, seed=0)

    Args:
        image_shape: `(D, D, C)`.
        scales: sides of the latents, fine to coarse; each divides the one before, the first divides D.
        layers_per_scale: the number of stochastic layers at each scale.
        likelihood: p(x|z), see `dvpvae_tf.models.likelihoods`.
        pseudoinput: r(u|x), a `Pseudoinput`; None for the Ladder VAE.
        prior: r(u), a `Prior`; None for the Ladder VAE.
        top_prior: a `VampPrior` over the top latent, in place of its conditional Gaussian, or None (Table 6).
        channels: channels of the features (Table 7: C_in).
        hidden_channels: channels of the residual blocks' bottleneck (C_hid).
        latent_channels: channels of each z.
        encoder_blocks: residual blocks a scale of the bottom-up path (N_enc).
        likelihood_input: what the likelihood sees: "all_latents" (Eq. 18: latent aggregation), "last_latent" (Eq. 21)
            or "last_features" (Eq. 22).
        binary_encoder_input: whether the encoder and the pseudoinput see the binary target of a Bernoulli likelihood
            instead of the grey image.
        input_mean: subtracted from the pixels in 0..255 before the encoder.
        input_std: divisor of the pixels, after `input_mean` is subtracted.
        seed: random seed of training and evaluation.
        **kwargs: passed to `keras.Model`.

    Raises:
        ValueError: if the sizes, or the parts, do not fit one another.

    Source: Sections 3 and 4, Figure 2.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        scales: tuple[int, ...],
        layers_per_scale: tuple[int, ...],
        likelihood: Likelihood,
        pseudoinput: Pseudoinput | None = None,
        prior: Prior | None = None,
        top_prior: VampPrior | None = None,
        channels: int = 32,
        hidden_channels: int = 32,
        latent_channels: int = 1,
        encoder_blocks: int = 3,
        likelihood_input: str = "all_latents",
        binary_encoder_input: bool = False,
        input_mean: float = 127.5,
        input_std: float = 127.5,
        seed: int = 0,
        **kwargs: Any,
    ):
        _check_sizes(image_shape, scales, layers_per_scale)
        super().__init__(image_shape, seed, **kwargs)
        self.likelihood = likelihood
        self.pseudoinput = pseudoinput
        self.prior = prior
        self.top_prior: Any = top_prior
        self.binary_encoder_input = binary_encoder_input
        self.input_mean = input_mean
        self.input_std = input_std
        self.bottom_up = BottomUp(
            scales, channels, hidden_channels, encoder_blocks, dtype=self.dtype_policy, name="bottom_up"
        )
        self.top_down = TopDown(
            self.image_shape[0],
            scales,
            layers_per_scale,
            channels,
            hidden_channels,
            latent_channels,
            likelihood.num_parameters(self.image_shape[-1]),
            likelihood_input,
            gaussian_top_prior=top_prior is None,
            dtype=self.dtype_policy,
            name="top_down",
        )
        self._check_parts()
        self.build((None, *self.image_shape))
        self._freeze_parts()

    def _check_parts(self):
        if (self.pseudoinput is None) != (self.prior is None):
            raise ValueError("Give both a pseudoinput and its prior, or neither (the Ladder VAE).")
        if self.pseudoinput is not None and self.top_prior is not None:
            raise ValueError("Give a pseudoinput or a VampPrior over the top latent, not both.")
        if self.binary_encoder_input and not isinstance(self.likelihood, BernoulliLikelihood):
            raise ValueError("binary_encoder_input needs a BernoulliLikelihood, whose target is binary: leave it out.")
        unbounded = self.pseudoinput is not None and not self.pseudoinput.bounded
        if unbounded and isinstance(self.prior, DiffusionPrior) and self.prior.clip:
            raise ValueError(
                f"The u of a {type(self.pseudoinput).__name__} leaves [-1, 1], to which its prior clips: give "
                "DiffusionPrior(clip=False)."
            )

    def _freeze_parts(self):
        """Freezes all layers of the parts that are given as frozen: what Keras builds within them is trainable."""
        for part in (getattr(self, name) for name in PARTS):
            if not getattr(part, "trainable", True):
                part.trainable = True  # TensorFlow skips what assigns an equal value
                part.trainable = False

    def build(self, input_shape: Shape) -> None:
        self.bottom_up.build(input_shape)
        condition_shape = None
        if self.pseudoinput is not None and self.prior is not None:
            if not self.pseudoinput.built:  # Keras builds what it deserialises
                self.pseudoinput.build(input_shape)
            if not self.prior.built:
                self.prior.build((None, *self.pseudoinput.shape))
            condition_shape = (None, *self.image_shape)
        if self.top_prior is not None and not self.top_prior.built:
            self.top_prior.build(input_shape)
        self.top_down.build(None, condition_shape=condition_shape)
        super().build(input_shape)

    @property
    def num_layers(self) -> int:
        """L, the number of stochastic layers."""
        return len(self.top_down.blocks)

    # The bound

    def call(self, images: tf.Tensor, seeds: tf.Tensor | None = None, training: bool = False) -> Elbo:
        """Computes the bound of the paper (Eq. 15, 17) with the prior's `negative_bound`.

        For a diffusion prior it is that in continuous time. `models/draws.py` has the bound of T steps.

        Args:
            images: `[N, D, D, C]`: uint8, or float32 in [0, 1].
            seeds: int32 `[N, 2]`, one key an image; None takes those of an evaluation that starts with these images.
            training: whether dropout is on.

        Returns:
            `Elbo`, nats.

        Raises:
            ValueError: if the images are of another shape or type, or `adapt` has not been called.
        """
        if tf.executing_eagerly():
            self.check_adapted()
        images = self.prepare(images)
        if seeds is None:
            seeds = noise.row_seeds(self.seed, Stream.EVALUATION, 0, tf.shape(images)[0])
        encoder_input, target = self.encoder_input_and_target(images, seeds)
        bound_noise, *latent_noise = self._bound_noise(seeds)
        inference = self.walk(self.extract_features(encoder_input), latent_noise)
        log_likelihood = self.likelihood.distribution(inference.likelihood_params).log_prob(target)
        kl_u = tf.zeros_like(log_likelihood)
        if self.pseudoinput is not None and self.prior is not None:
            # KL(r(u|x) || r(u)), or its bound: minus the entropy of the first, minus log r(u) (Eq. 15, 17).
            negative_log_prior = tf.add_n(self.prior.negative_bound(inference.pseudoinput, bound_noise, training))
            kl_u += negative_log_prior - self.pseudoinput.entropy()
        return Elbo(-log_likelihood, tf.stack(inference.kl, axis=1), kl_u)

    def encoder_input_and_target(self, images: tf.Tensor, seeds: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes what the encoder and the pseudoinput see, and the target of the likelihood.

        Args:
            images: float32 `[N, D, D, C]` in [0, 1].
            seeds: int32 `[N, 2]`, one key an image.

        Returns:
            Two tensors, float32 `[N, D, D, C]`. Both are the target where `binary_encoder_input` is set.
        """
        target = self.target(images, seeds)
        return target if self.binary_encoder_input else images, target

    @property
    def latent_noise_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the noise that `walk` takes for one image: of u (`(0,)` for the Ladder VAE), then of each z."""
        return [self.pseudoinput.shape if self.pseudoinput else (0,), *self.top_down.latent_shapes]

    def _bound_noise(self, seeds):
        """Draws the noise of the bound on log r(u), and the noise of `walk`."""
        bound_size = self.prior.bound_noise_size if self.prior else 0
        return noise.normals(noise.fork(seeds, InferenceNoise.DRAW), [(bound_size,), *self.latent_noise_shapes])

    def extract_features(self, images: tf.Tensor) -> Features:
        """Computes the bottom-up path and the mean of the pseudoinput.

        Args:
            images: float32 `[N, D, D, C]` in [0, 1].

        Returns:
            `Features`.
        """
        mean = None if self.pseudoinput is None else self.pseudoinput(images)
        if self.top_prior is None:
            return Features(self._bottom_up_features(images), mean, None)
        # One pass for the images and the pseudoinputs of the VampPrior.
        features = self._bottom_up_features(tf.concat([images, self.top_prior.pseudoinputs.value], axis=0))
        rows, top_side = tf.shape(images)[0], self.top_down.sides[0]
        components = self.top_down.top_posterior(features[top_side][rows:])
        return Features({side: values[:rows] for side, values in features.items()}, mean, components)

    def _bottom_up_features(self, images):
        features = self.bottom_up((255.0 * images - self.input_mean) / self.input_std)
        return dict(zip(self.top_down.scales, features, strict=True))

    def walk(
        self, features: Features, latent_noise: list[tf.Tensor | None], temperature: float | tf.Tensor = 1.0
    ) -> Inference:
        """Draws u from r(u|x), then z down the top-down path.

        Each z comes from its posterior where the scale has features, else from its prior.

        Args:
            features: `Features`.
            latent_noise: float32 `[N, ...]`, standard normal, shaped as u (None for the Ladder VAE) and as each z, top
                layer first.
            temperature: factor of the standard deviation of those z that come from the prior.

        Returns:
            `Inference`.
        """
        noise_u, *noise_z = latent_noise
        u, condition = None, None
        if self.pseudoinput is not None:
            u = self.pseudoinput.sample(features.pseudoinput_mean, noise_u)
            condition = self.pseudoinput.decode(u)
        parameters, steps = self.top_down(noise_z, condition, features.by_side, temperature=temperature)
        top_log_prior = None
        if features.top_components is not None:
            top_log_prior = self.top_prior.log_prob(steps[0].latent, *features.top_components)
        return Inference(u, steps, parameters, top_log_prior)

    # Inference and generation

    def infer(self, images: np.ndarray | tf.Tensor, sample: bool = True, seed: int = 0, first: int = 0) -> Inference:
        """Infers the pseudoinput and the latents of images.

        Args:
            images: `[N, D, D, C]`: uint8, or float32 in [0, 1]. The encoder sees them as they are, never binarized.
            sample: True draws u and z from their posteriors; False takes the means.
            seed: of the noise.
            first: index of the first image; the noise of an image depends on the seed and its index.

        Returns:
            `Inference`.

        Raises:
            ValueError: if the images are of another shape, or `adapt` has not been called.
        """
        if tf.executing_eagerly():
            self.check_adapted()
        images = self.prepare(tf.convert_to_tensor(images))
        rows = tf.shape(images)[0]
        if sample:
            _, *latent_noise = self._bound_noise(noise.row_seeds(seed, Stream.EVALUATION, first, rows))
        else:
            latent_noise = [
                tf.zeros([rows, *shape]) if math.prod(shape) else None for shape in self.latent_noise_shapes
            ]
        return self.walk(self.extract_features(images), latent_noise)

    def generate(
        self,
        seeds: tf.Tensor,
        temperature: float | tf.Tensor = 1.0,
        prior_temperature: float | tf.Tensor = 1.0,
        steps: int | None = None,
        pixels: Literal["draw", "mean"] = "draw",
        label: tf.Tensor | None = None,
        pseudoinput: tf.Tensor | None = None,
        latents: Sequence[tf.Tensor | None] = (),
    ) -> Samples:
        """Generates images with their pseudoinputs, one for each key: u, then z from the priors, then x.

        Args:
            seeds: int32 `[N, 2]`, one key an image, see `dvpvae_tf.noise.row_seeds`.
            temperature: as in `SamplingOptions`; a scalar, or `[N, 1, 1, 1]`.
            prior_temperature: a scalar, or `[N, 1, 1, 1]`.
            steps: T of the diffusion prior.
            pixels: "draw" or "mean".
            label: int32 scalar or `[N]`, for a prior with labels.
            pseudoinput: u, float32 `[N, d, d, C]`, or `[d, d, C]` for all images; None draws it.
            latents: z of the first layers, float32 `[N, side, side, latent channels]`; None draws one.

        Returns:
            `Samples`. Of a Bernoulli likelihood the images are probabilities.

        Raises:
            ValueError: if `pixels` is neither "draw" nor "mean".
        """
        check_pixels(pixels)
        condition, pseudoinputs = None, None
        if self.pseudoinput is not None and self.prior is not None:
            if pseudoinput is None:
                size = self.prior.sample_noise_size(steps)
                drawn = noise.normal(noise.fork(seeds, GenerationNoise.PSEUDOINPUT), size)
                of_label = {} if label is None else {"label": label}  # which other priors do not take
                pseudoinput = self.prior.sample(drawn, steps, prior_temperature, **of_label)
            pseudoinput = tf.broadcast_to(pseudoinput, [tf.shape(seeds)[0], *self.pseudoinput.shape])
            condition = self.pseudoinput.decode(pseudoinput)
            pseudoinputs = tf.clip_by_value(condition, 0.0, 1.0)
        noise_z: list[Any] = noise.normals(noise.fork(seeds, GenerationNoise.LATENTS), self.top_down.latent_shapes)
        top_features = None
        if self.top_prior is not None:
            chosen = self.top_prior.choose(noise.uniform(noise.fork(seeds, GenerationNoise.COMPONENT), 1)[:, 0])
            top_features = self._bottom_up_features(chosen)[self.top_down.sides[0]]
            # The top block draws from a posterior, which takes no temperature.
            noise_z[0] *= temperature
        parameters, _ = self.top_down(
            noise_z, condition, top_features=top_features, temperature=temperature, latents=latents
        )
        if pixels == "mean":
            return Samples(self.likelihood.mean_images(parameters), pseudoinputs)
        images = self.likelihood.images(parameters, noise.fork(seeds, GenerationNoise.PIXELS), temperature)
        return Samples(images, pseudoinputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, serialised, and the names of the parts that are frozen."""
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in SERIALISED_PARTS}
        return {
            **super().get_config(),
            **parts,
            "image_shape": self.image_shape,
            "scales": self.top_down.scales,
            "layers_per_scale": self.top_down.layers_per_scale,
            "channels": self.bottom_up.channels,
            "hidden_channels": self.bottom_up.hidden_channels,
            "latent_channels": self.top_down.latent_channels,
            "encoder_blocks": self.bottom_up.blocks,
            "likelihood_input": self.top_down.likelihood_input,
            "binary_encoder_input": self.binary_encoder_input,
            "input_mean": self.input_mean,
            "input_std": self.input_std,
            "seed": self.seed,
            "frozen": [name for name in PARTS if not getattr(getattr(self, name), "trainable", True)],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DVPVAE":
        """Makes a model from what `get_config` returns."""
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in SERIALISED_PARTS}
        arguments = {**config, **parts}
        frozen = arguments.pop("frozen", [])
        model = cls(**arguments)
        for name in frozen:
            getattr(model, name).trainable = False
        return model


def _check_sizes(image_shape: tuple[int, int, int], scales: tuple[int, ...], layers_per_scale: tuple[int, ...]) -> None:
    height, width, _ = image_shape
    fits = all(fine % coarse == 0 for fine, coarse in pairwise((height, *scales))) and len({*scales}) == len(scales)
    if height != width or not fits:
        raise ValueError(
            "Images must be square, and each scale must divide the one before and be smaller, got images of "
            f"{height} x {width} and scales {list(scales)}."
        )
    if len(layers_per_scale) != len(scales) or min(layers_per_scale) < 1:
        raise ValueError(
            f"Give each scale at least one layer, got scales {list(scales)} and layers_per_scale "
            f"{list(layers_per_scale)}."
        )
