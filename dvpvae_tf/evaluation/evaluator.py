"""The compiled functions of an evaluation, from images to terms and weights."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.distribute.devices import device_of
from dvpvae_tf.layers.pixels import check_images
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.models.draws import (
    ImageData,
    continuous_time_diffusion,
    draw,
    image_data,
    importance_log_weight,
    label_log_weights,
    negative_elbo_terms,
    published_log_weight,
    sum_of_kl_u,
    terms_of_draw,
    tile,
)
from dvpvae_tf.noise import InferenceNoise, Stream
from dvpvae_tf.priors import DiffusionPrior, LabelledMixturePrior


def checked_images(model: DVPVAE, images: np.ndarray) -> np.ndarray:
    """Checks images before any graph is made.

    Args:
        model: `DVPVAE`.
        images: `[N, D, D, C]`: uint8, or float in [0, 1].

    Returns:
        The images as an array.

    Raises:
        ValueError: if there are no images, they are of another shape, type or range, or `adapt` has not been called.
    """
    model.check_fitted()
    images = np.asarray(images)
    check_images(images, model.image_shape)
    if len(images) == 0:
        raise ValueError("There are no images to evaluate.")
    return images


def check_at_least_one(**numbers: int) -> None:
    """Checks numbers of draws, images or the like.

    Args:
        **numbers: by their names, for the message.

    Raises:
        ValueError: if one is below 1.
    """
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")


class Evaluator:
    """The compiled functions that evaluate one model, on the device of that model.

    The model keeps them (`model.graphs`): another evaluator of the same model traces nothing again. Noise is a function
    of the seed, the index of an image and the number of a draw: no result depends on the batch.

    Args:
        model: `DVPVAE`.
    """

    def __init__(self, model: DVPVAE):
        self._model = model

    def image_data(self, images: np.ndarray, seed: int, first: int) -> ImageData:
        """Computes what all draws of an image share: the encoder runs once an image.

        Args:
            images: `[N, D, D, C]`: uint8, or float in [0, 1].
            seed: random seed.
            first: index of the first of the images.

        Returns:
            `ImageData`.
        """
        with device_of(self._model):
            return self._image_data_function()(self._model.prepare(tf.constant(images)), *_integers(seed, first))

    def draw_sums(
        self,
        data: ImageData,
        seed: int,
        first: int,
        draws: range,
        num_draws: int,
        steps: int | None,
        published: bool = False,
    ) -> tuple[dict, tf.Tensor]:
        """Computes the terms and weights of some of the draws of each image, and sums them over the draws.

        Args:
            data: of N images.
            seed: random seed.
            first: index of the first of the images.
            draws: numbers of the draws.
            num_draws: K, the number of all draws: draw k takes its time in stratum k of K in continuous time.
            steps: T, as `check_steps` gives it.
            published: whether to weight the draws as the authors' test code does.

        Returns:
            The terms of `terms_of_draw`, for a diffusion prior "continuous_time_negative_elbo" too, as sums over the
            draws; and the log of the sum of the weights, float32 `[N]`.
        """
        with device_of(self._model):
            function = self._draw_sums_function(steps, published)
            return function(data, *_integers(seed, first), tf.constant(draws, tf.int32), *_integers(num_draws))

    def draw_terms(
        self, data: ImageData, seed: int, first: int, draws: range, steps: int | None
    ) -> dict[str, tf.Tensor]:
        """Computes the terms and weights of some of the draws of each image, and keeps the draws apart.

        Args:
            data: of N images.
            seed: random seed.
            first: index of the first of the images.
            draws: numbers of the draws, K of them.
            steps: T, as `check_steps` gives it.

        Returns:
            float32 tensors in nats: "log_weight", "reconstruction" and "kl_u" `[K, N]`, "kl_z" `[K, N, L]`; and where
            the prior has C labels "label_log_weight" `[K, N, C]`, the log-weights of p(x|c).
        """
        with device_of(self._model):
            function = self._draw_terms_function(steps)
            return function(data, *_integers(seed, first), tf.constant(draws, tf.int32))

    def infer_twice(self, data: ImageData, seed: int, first: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Infers the latents of each image with two independent draws of the noise.

        Args:
            data: of N images.
            seed: random seed.
            first: index of the first of the images.

        Returns:
            Posterior means, float32 `[2, N, units]`, top layer first; and the KL of each layer in the first draw,
            float32 `[N, L]` in nats.
        """
        with device_of(self._model):
            return self._infer_twice_function()(data, *_integers(seed, first))

    def negative_elbo(self, images: np.ndarray, seed: int, first: int) -> dict[str, tf.Tensor]:
        """Runs `negative_elbo_terms`, compiled, for images of one batch and the prior's own T.

        Args:
            images: `[N, D, D, C]`: uint8, or float in [0, 1].
            seed: random seed.
            first: index of the first of the images.

        Returns:
            The terms of `negative_elbo_terms`.
        """
        with device_of(self._model):
            return self._negative_elbo_function()(self._model.prepare(tf.constant(images)), *_integers(seed, first))

    def is_traced(self, steps: int | None, published: bool = False) -> bool:
        """Whether `draw_sums` is traced already for these settings.

        Args:
            steps: see `draw_sums`.
            published: see `draw_sums`.

        Returns:
            bool.
        """
        return ("draw_sums", steps, published) in self._model.graphs

    def trace(self, steps: int | None, published: bool = False) -> None:
        """Traces `image_data` and `draw_sums` for these settings; their first call would do so, too.

        Args:
            steps: see `draw_sums`.
            published: see `draw_sums`.
        """
        with device_of(self._model):
            self._draw_sums_function(steps, published)

    # Each traced function, made when first asked for

    def _traced(self, key: tuple, function: Callable, *specs) -> tf.types.experimental.ConcreteFunction:
        return self._model.graphs.get(key, lambda: tf.function(function).get_concrete_function(*specs))

    def _image_data_function(self):
        def of_images(images, seed, first):
            return image_data(self._model, images, noise.row_seeds(seed, Stream.EVALUATION, first, tf.shape(images)[0]))

        return self._traced(("image_data",), of_images, self._image_spec, *_scalars(2))

    def _draw_sums_function(self, steps, published):
        def draw_sums(data, seed, first, draws, num_draws):
            num_images = tf.shape(data.target)[0]
            seeds, drawn, terms = self._draw(data, seed, first, draws, steps)
            if isinstance(self._model.prior, DiffusionPrior):
                length = 1.0 / tf.cast(num_draws, tf.float32)
                start = tf.repeat(tf.cast(draws, tf.float32), num_images) * length
                change = continuous_time_diffusion(self._model, drawn, start, length) - terms["kl_u"]["diffusion"]
                terms["continuous_time_negative_elbo"] = terms["negative_elbo"] + change
            if published:
                log_weight = published_log_weight(self._model, drawn, seeds, steps)
            else:
                log_weight = importance_log_weight(drawn)

            def by_draw(value):
                return tf.reshape(value, [-1, num_images, *value.shape[1:]])

            sums = tf.nest.map_structure(lambda value: tf.reduce_sum(by_draw(value), axis=0), terms)
            return sums, tf.reduce_logsumexp(by_draw(log_weight), axis=0)

        draws = tf.TensorSpec([None], tf.int32)
        specs = (self._data_spec, *_scalars(2), draws, *_scalars(1))
        return self._traced(("draw_sums", steps, published), draw_sums, *specs)

    def _draw_terms_function(self, steps):
        def draw_terms(data, seed, first, draws):
            num_images = tf.shape(data.target)[0]
            _, drawn, terms = self._draw(data, seed, first, draws, steps)
            found = {"log_weight": importance_log_weight(drawn), "kl_u": sum_of_kl_u(terms)}
            found |= {name: terms[name] for name in ("reconstruction", "kl_z")}
            if isinstance(self._model.prior, LabelledMixturePrior):
                found["label_log_weight"] = label_log_weights(self._model, drawn)
            return {
                name: tf.reshape(value, [tf.size(draws), num_images, *value.shape[1:]]) for name, value in found.items()
            }

        specs = (self._data_spec, *_scalars(2), tf.TensorSpec([None], tf.int32))
        return self._traced(("draw_terms", steps), draw_terms, *specs)

    def _draw(self, data, seed, first, draws, steps):
        """The keys, the draws and their terms: one row for each draw of each image, draw by draw."""
        seeds = noise.row_seeds(seed, Stream.FIRST_DRAW - draws, first, tf.shape(data.target)[0])
        drawn = draw(self._model, tile(data, tf.size(draws)), seeds, steps)
        return seeds, drawn, terms_of_draw(self._model, drawn)

    def _infer_twice_function(self):
        def infer_twice(data, seed, first):
            num_images, shapes = tf.shape(data.target)[0], self._model.latent_noise_shapes
            seeds = [noise.row_seeds(seed, Stream.FIRST_DRAW - k, first, num_images) for k in (0, 1)]
            both = [
                self._model.walk(data.features, noise.normals(noise.fork(each, InferenceNoise.DRAW), shapes))
                for each in seeds
            ]
            flat = [[tf.reshape(mean, [num_images, -1]) for mean in one.posterior_means] for one in both]
            return tf.stack([tf.concat(means, axis=1) for means in flat]), tf.stack(both[0].kl, axis=1)

        return self._traced(("infer_twice",), infer_twice, self._data_spec, *_scalars(2))

    def _negative_elbo_function(self):
        def negative_elbo(images, seed, first):
            seeds = noise.row_seeds(seed, Stream.EVALUATION, first, tf.shape(images)[0])
            return negative_elbo_terms(self._model, images, seeds)

        return self._traced(("negative_elbo",), negative_elbo, self._image_spec, *_scalars(2))

    @property
    def _image_spec(self):
        return tf.TensorSpec([None, *self._model.image_shape], tf.float32)

    @property
    def _data_spec(self):
        return self._image_data_function().structured_outputs


def _integers(*numbers):
    return [tf.constant(number, tf.int32) for number in numbers]


def _scalars(count):
    return [tf.TensorSpec([], tf.int32)] * count
