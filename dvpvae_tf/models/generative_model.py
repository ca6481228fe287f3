"""The methods that users call: adapt; sample, encode, decode, inpaint, reconstruct and calibrate; save and load."""

import functools
import math
import numbers
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.layers.pixels import check_training_images, to_unit_range
from dvpvae_tf.layers.pseudoinputs import Pseudoinput
from dvpvae_tf.layers.shape import Shape
from dvpvae_tf.models import refit
from dvpvae_tf.models.bound_model import BoundModel
from dvpvae_tf.models.graphs import GraphCache
from dvpvae_tf.models.latents import encode_batch, encode_in_batches
from dvpvae_tf.models.likelihoods import Likelihood
from dvpvae_tf.models.outputs import Latents, Samples, SamplingOptions
from dvpvae_tf.models.sampling import decode_in_batches, sample_in_batches
from dvpvae_tf.noise import InferenceNoise
from dvpvae_tf.priors import DiffusionPrior, Prior, VampPrior
from dvpvae_tf.priors.calibration import Calibration
from dvpvae_tf.priors.full_mixture import FullMixturePrior
from dvpvae_tf.priors.prior import NO_STEPS
from dvpvae_tf.priors.process import check_calibrated_steps

if TYPE_CHECKING:
    from dvpvae_tf.models.inpainting import Inpainted


class GenerativeModel(BoundModel):
    """The base of a model that generates images.

    A subclass has the attributes `likelihood`, `top_down`, `latent_noise_shapes`, `pseudoinput`, `prior` and
    `top_prior`, the last three None where it has none, and the methods `encoder_input_and_target`,
    `extract_features`, `walk`, `infer` and `generate`.

    Args:
        image_shape: `(D, D, C)`.
        seed: random seed of training and evaluation.
        **kwargs: passed to `keras.Model`.
    """

    likelihood: Likelihood
    pseudoinput: Pseudoinput | None
    prior: Prior | None
    top_prior: VampPrior | None

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.graphs = GraphCache(self)

    # Images in

    def adapt(self, images: tf.data.Dataset | np.ndarray) -> None:
        """Prepares the pseudoinputs in one pass: S of Algorithm 1, or the initial pseudoinputs of a VampPrior.

        A model that needs neither checks the images.

        Args:
            images: array, or `tf.data.Dataset` of batches, `[N, D, D, C]`: uint8, or float32 in [0, 1]. A data set may
                yield tuples of images and labels, or dictionaries with "image", too.

        Raises:
            ValueError: if there are no images, fewer than a VampPrior has components, they are of another shape, type
                or range, or uint8 of 0 and 1, or the data set has no end.
        """
        parts = [part for part in (self.pseudoinput, self.top_prior) if part is not None]
        for part in parts:
            part.adapt(images)
        if not parts:
            check_training_images(images, self.image_shape)

    @property
    def adapted(self) -> bool:
        """Whether `adapt` has been called, if a part needs it."""
        return all(part is None or part.adapted for part in (self.pseudoinput, self.top_prior))

    def check_adapted(self) -> None:
        super().check_adapted()
        if isinstance(self.prior, FullMixturePrior):  # not even the bound of training is defined without Gaussians
            self._check_prior()

    def check_fitted(self) -> None:
        """Checks that the model can draw and score: `check_adapted`, and whether the prior over u is fitted.

        Raises:
            ValueError: if it cannot.
        """
        self.check_adapted()
        self._check_prior()

    def _check_prior(self) -> None:
        if self.prior is not None and not self.prior.fitted:
            raise ValueError(
                "The prior over u was fitted to trained weights, which are not here: load them with set_weights or "
                "load_weights, or fit the prior again."
            )

    def prepare(self, images: tf.Tensor) -> tf.Tensor:
        """Checks images and converts them to float32 in [0, 1].

        Args:
            images: `[N, D, D, C]`: uint8, or float in [0, 1].

        Returns:
            float32 `[N, D, D, C]` in [0, 1].

        Raises:
            ValueError: if the images are of another shape or type, or, eagerly, leave [0, 1].
            tf.errors.InvalidArgumentError: in a graph, if float images leave [0, 1].
        """
        return to_unit_range(images, self.image_shape)

    def target(self, images: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """Computes the target x of log p(x|z): the images, or for a Bernoulli likelihood a binary draw of each.

        Args:
            images: float32 `[N, D, D, C]` in [0, 1].
            seeds: int32 `[N, 2]`, one key an image.

        Returns:
            float32 `[N, D, D, C]`.
        """
        if not self.likelihood.needs_uniform:
            return self.likelihood.target(images)
        uniform = noise.uniform(noise.fork(seeds, InferenceNoise.TARGET), math.prod(self.image_shape))
        return self.likelihood.target(images, tf.reshape(uniform, tf.shape(images)))

    # What is compiled

    @property
    def generate_function(self) -> tf.types.experimental.PolymorphicFunction:
        """The compiled `generate`."""
        return self.graphs.get("generate", lambda: tf.function(self.generate, reduce_retracing=True))

    @property
    def encode_function(self) -> tf.types.experimental.PolymorphicFunction:
        """The compiled `dvpvae_tf.models.latents.encode_batch` of this model."""
        encode = functools.partial(encode_batch, self)
        return self.graphs.get("encode", lambda: tf.function(encode, reduce_retracing=True))

    # Saving and loading

    @classmethod
    def from_preset(cls, name: str | Path, load_weights: bool = False, **kwargs: Any) -> "GenerativeModel":
        """Makes the model of a preset with starting weights, or a trained model.

        A preset is a file of settings. Trained weights are in model folders, some of which come with the library.

        Args:
            name: a preset, which is the name of a YAML file of settings in `configs/`, such as "mnist", or the path of
                another YAML file; or a model folder, which `save_to_preset` has written.
            load_weights: whether to load trained weights: those that come with the library under this name, or those
                in the model folder.
            **kwargs: arguments of the constructor to change, such as `seed` or `dtype`.

        Returns:
            A built `DVPVAE`. A preset with the prior `full_mixture` has the diffusion prior that it is trained with.

        Raises:
            UserError: if there is no such preset or model folder, there are no such trained weights (the message says
                which there are), or a file is damaged.
        """
        from dvpvae_tf.config import load_config
        from dvpvae_tf.models.build import build_model
        from dvpvae_tf.models.model_folder import is_model_folder, load_model_folder

        if load_weights or is_model_folder(name):
            return load_model_folder(name, load_weights, **kwargs)
        return build_model(load_config(name).model, **kwargs)

    def save_to_preset(self, folder: str | Path, **metadata: Any) -> None:
        """Saves a model folder: `config.json`, `metadata.json` and `model.weights.h5`, without an optimizer.

        Args:
            folder: the folder to write: a new one, or an older model folder that is replaced.
            **metadata: what else `metadata.json` says of the model, such as `dataset` and `epochs`; JSON values.

        Raises:
            UserError: if something else is in that place, or it cannot be written.
        """
        from dvpvae_tf.models.model_folder import save_model_folder

        save_model_folder(self, folder, **metadata)

    # Images and latents out

    def sample(  # type: ignore[misc]  # temperature may be given by its place, too
        self, num: int, temperature: float = 1.0, seed: int = 0, **options: Unpack[SamplingOptions]
    ) -> np.ndarray:
        """Generates images; image i depends on the weights, the seed, the options and i alone.

        Args:
            num: the number of images, at least 1.
            temperature: factor of the standard deviation of each z, and of the scale of a logistic mixture; 0 or more.
            seed: random seed, below 2^31.
            **options: `prior_temperature` (factor of the noise of u), `steps` (T of a diffusion prior), `pixels`
                ("draw" or "mean"), `label` (a number or a name) and `pseudoinput` (float32 `[d, d, C]`), as in
                `SamplingOptions`.

        Returns:
            float32 `[num, D, D, C]` in [0, 1].

        Raises:
            TypeError: if there is no such option.
            ValueError: if an option is out of its range, or `adapt` has not been called.
        """
        return self.sample_with_pseudoinputs(num, temperature, seed, **options).images

    def sample_with_pseudoinputs(  # type: ignore[misc]  # temperature may be given by its place, too
        self, num: int, temperature: float = 1.0, seed: int = 0, **options: Unpack[SamplingOptions]
    ) -> Samples:
        """Generates images, and the pseudoinputs they came from (Figure 3).

        It takes the arguments of `sample`, gives the same images and raises the same errors.

        Returns:
            `Samples` of arrays.
        """
        images, pseudoinputs = zip(*sample_in_batches(self, num, seed, temperature=temperature, **options), strict=True)
        return Samples(np.concatenate(images), None if pseudoinputs[0] is None else np.concatenate(pseudoinputs))

    def encode(
        self, images: np.ndarray | tf.data.Dataset, sample: bool = False, seed: int = 0, batch_size: int = 250
    ) -> Latents:
        """Encodes images: gives their pseudoinputs and latents, in batches and compiled.

        The images go to the encoder as they are, never binarized. `infer` gives the Gaussians of u and z too.

        Args:
            images: array `[N, D, D, C]`: uint8, or float32 in [0, 1]; or a `tf.data.Dataset` of batches, images alone,
                first in a tuple, or under "image" in a dictionary.
            sample: False gives the means of r(u|x) and q(z_l|z_above, x, u), all those above being means. True draws
                from them.
            seed: random seed. The draw of an image depends on the seed and its index, not on the batch.
            batch_size: images in a batch of an array.

        Returns:
            `Latents` of arrays.

        Raises:
            ValueError: if there are no images, they are of another shape, type or range, the data set has no end, or
                `adapt` has not been called.
        """
        return encode_in_batches(self, images, sample, seed, batch_size)

    def decode(
        self,
        latents: Latents,
        temperature: float = 1.0,
        pixels: Literal["draw", "mean"] = "mean",
        seed: int = 0,
        batch_size: int = 250,
    ) -> np.ndarray:
        """Decodes latents to images. Latents left out are drawn from their priors, as `sample` does.

        A z is drawn given u and the layers above it. A u left out is drawn from r(u) alone, whatever z is given.

        Args:
            latents: what `encode` gives, or a part of it, changed or not.
            temperature: factor of the standard deviation of each z that is drawn, and of the scale of drawn pixels.
            pixels: "mean" gives the mean of p(x|z), "draw" a draw; see `SamplingOptions`.
            seed: random seed. The noise of a row depends on the seed and its index, not on the batch.
            batch_size: rows in a batch.

        Returns:
            float32 `[N, D, D, C]` in [0, 1].

        Raises:
            ValueError: if the latents do not fit the model, an option is out of its range, or `adapt` has not been
                called.
        """
        return np.concatenate([*decode_in_batches(self, latents, temperature, pixels, seed, batch_size)])

    def inpaint(
        self,
        images: np.ndarray,
        missing: np.ndarray,
        rounds: int = 20,
        chains: int = 20,
        approximate: bool = False,
        pixels: Literal["draw", "mean"] = "mean",
        steps: int | None = None,
        seed: int = 0,
    ) -> "Inpainted":
        """Draws missing pixels given the others, by the model's own posterior.

        `dvpvae_tf.models.inpainting.inpaint` says how.

        Args:
            images: `[N, D, D, C]`: uint8, or float32 in [0, 1]. Missing pixels may have any value in that range.
            missing: bool, `[N, D, D]` or `[D, D]` for all images: True where a pixel is to be drawn.
            rounds: how many rounds each chain takes, at least 1.
            chains: how many chains each image has, at least 1. With more chains or rounds, the draws of `pixels="draw"`
                come closer to the model's p(missing|observed).
            approximate: takes the end of one chain, without weights: faster, but not the model's posterior.
            pixels: "draw" draws the missing pixels from p(x|z), black or white for a Bernoulli likelihood; "mean" takes
                the mean of p(x|z).
            steps: T of a diffusion prior; None takes its own.
            seed: random seed. The noise of an image depends on the seed and its index, not on the batch.

        Returns:
            `Inpainted`: the images, float32 `[N, D, D, C]`, and how many independent draws each choice is worth.

        Raises:
            UserError: if the mask is not bool, is of another shape, has no pixel or all of an image, or a number is
                below 1.
            ValueError: if the images are of another shape, type or range, or `adapt` has not been called.
        """
        from dvpvae_tf.models.inpainting import inpaint

        return inpaint(self, images, missing, rounds, chains, approximate, pixels, steps, seed)

    def reconstruct(self, images: np.ndarray | tf.Tensor) -> np.ndarray | tf.Tensor:
        """Reconstructs images without noise: from the means of u and z to the likelihood's mean or mode.

        Args:
            images: `[N, D, D, C]`: uint8, or float32 in [0, 1].

        Returns:
            float32 array `[N, D, D, C]` in [0, 1], or tensor in a graph.
        """
        reconstructions = self.likelihood.images(self.infer(images, sample=False).likelihood_params)
        return reconstructions.numpy() if tf.executing_eagerly() else reconstructions

    # The steps of a diffusion prior

    @property
    def has_steps(self) -> bool:
        """Whether the model has a prior that takes a number of diffusion steps."""
        return self.prior is not None and self.prior.has_steps

    @property
    def process_name(self) -> str | None:
        """How the diffusion prior takes its steps, "ancestral" or "calibrated"; None without one."""
        return None if self.prior is None else self.prior.process_name

    def check_steps(self, steps: int | None) -> int | None:
        """Checks a number of diffusion steps.

        Args:
            steps: T; None asks for the default.

        Returns:
            T, or None where the model has no diffusion prior.

        Raises:
            ValueError: if T is no whole number from 1 on, above 100 for a calibrated process, or given for a model
                without a diffusion prior.
        """
        if steps is not None and not isinstance(steps, numbers.Integral):
            raise ValueError(f"steps must be a whole number, got {steps!r}.")
        if self.prior is not None:
            return self.prior.check_steps(steps)
        if steps is not None:
            raise ValueError(NO_STEPS)
        return None

    def calibrate(
        self,
        images: np.ndarray | tf.data.Dataset,
        validation: np.ndarray | tf.data.Dataset | None = None,
        steps: int | None = None,
        seed: int = 0,
        draws: int = 4000,
        verbose: int = 0,
    ) -> Calibration | None:
        """Calibrates the diffusion prior: from then on each of its steps has the covariance and time that suit it best.

        Call it once training is over: it fits the weights as they are, in one pass. It changes this model, whereas the
        functions `with_...` of `dvpvae_tf.models` return another one.

        Args:
            images: training images, an array `[N, D, D, C]` or a `tf.data.Dataset` of batches: uint8, or float32 in
                [0, 1].
            validation: other images, to choose T and the shrinkage of the covariances on; None takes every tenth out of
                `images`.
            steps: T from now on, at most 100; None takes the smallest that is within 0.2 nats of T = 50.
            seed: of the noise.
            draws: pseudoinputs of training images to use, and half as many of validation images; of each image ten at
                most.
            verbose: 1 shows a progress bar, 0 nothing.

        Returns:
            What was found. None where the errors of the network are not finite or have no positive definite
            covariance: then nothing has changed.

        Raises:
            ValueError: if the model has no diffusion prior, T is no whole number from 1 to 100, there are too few
                images or draws, or `adapt` has not been called.
        """
        self.check_adapted()
        if not isinstance(self.prior, DiffusionPrior):
            raise ValueError("Only a model with a diffusion prior can be calibrated.")
        check_calibrated_steps(steps)
        u, validation_u = refit.draws_to_calibrate(self, images, validation, draws, seed)
        return self.prior.calibrate(u, validation_u, steps, seed, verbose)
