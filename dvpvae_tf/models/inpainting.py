"""Missing pixels drawn from the model's own posterior; no training."""

import functools
import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.errors import UserError
from dvpvae_tf.models.draws import ImageData, draw, importance_log_weight
from dvpvae_tf.models.outputs import check_pixels
from dvpvae_tf.noise import GenerationNoise, Stream

if TYPE_CHECKING:
    from dvpvae_tf.models.dvpvae import DVPVAE

ROWS_AT_A_TIME = 500  # images times chains


class Inpainted(NamedTuple):
    """Images with their missing pixels filled in.

    Attributes:
        images: float32 `[N, D, D, C]`, the pixels that were there unchanged.
        effective_draws: float64 `[N]`, how many equally weighted draws the weighted ones are worth, from 1 to their
            number. Near 1 the result is one of few candidates: give more chains or rounds.
    """

    images: np.ndarray
    effective_draws: np.ndarray


class _State(NamedTuple):
    """The pictures of all chains `[K N, D, D, C]`; of each image the draw chosen so far, and sums of its weights."""

    pictures: tf.Tensor
    drawn: tf.Tensor
    mean: tf.Tensor
    log_sum: tf.Tensor
    log_sum_of_squares: tf.Tensor


def inpaint(
    model: "DVPVAE",
    images: np.ndarray,
    missing: np.ndarray,
    rounds: int = 20,
    chains: int = 20,
    approximate: bool = False,
    pixels: Literal["draw", "mean"] = "mean",
    steps: int | None = None,
    seed: int = 0,
) -> Inpainted:
    """Draws missing pixels given the others.

    Each of the chains starts from a sample of the model in place of the missing pixels. In each round it draws u and z
    from the encoder's posterior q of its picture, and takes the mean of p(x|z) for the missing pixels from then on. The
    draws of all chains and rounds are candidates with the weights p(observed, z, u) / q(z, u|picture). One of them is
    chosen with a probability proportional to its weight. With `pixels="draw"` the missing pixels are drawn from its
    p(x|z), and with more candidates the result tends to the model's p(missing|observed), however wrong q is.

    It takes the arguments of `GenerativeModel.inpaint`, after the model, and raises the same errors.

    Returns:
        `Inpainted`.

    Source: Cappé, Guillin, Marin and Robert, "Population Monte Carlo", JCGS 2004, for weights of draws whose proposal
    depends on earlier draws; Rezende, Mohamed and Wierstra, ICML 2014, for the chain without weights.
    """
    model.check_fitted()
    noise.check_seed(seed)
    check_pixels(pixels)
    if not all(isinstance(number, numbers.Integral) and number >= 1 for number in (rounds, chains)):
        raise UserError(f"rounds and chains must be whole numbers from 1 on, got {rounds!r} and {chains!r}.")
    images = model.prepare(tf.convert_to_tensor(images)).numpy()
    if not len(images):
        raise UserError("There are no images to inpaint.")
    missing, steps = _checked_mask(missing, images.shape), model.check_steps(steps)
    chains = 1 if approximate else chains
    start, go_on = _compiled(model, _start), _compiled(model, _round)
    parts = []
    size = max(1, ROWS_AT_A_TIME // chains)
    for first in range(0, len(images), size):
        given, mask = (tf.constant(each[first : first + size]) for each in (images, missing))
        state = start(given, mask, tf.constant([seed, first, 0]), chains, steps)
        for number in range(rounds):
            keys = tf.constant([seed, first, number])
            state = go_on(state, given, mask, keys, chains, approximate, steps)
        effective = np.exp(2.0 * state.log_sum.numpy().astype("float64") - state.log_sum_of_squares.numpy())
        filled = tf.where(mask, state.drawn if pixels == "draw" else state.mean, given)
        parts.append((filled.numpy(), effective))
    return Inpainted(*map(np.concatenate, zip(*parts, strict=True)))


def _checked_mask(missing: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mask `[N, D, D, 1]`."""
    missing = np.asarray(missing)
    if missing.dtype != bool or missing.shape not in (shape[1:3], shape[:3]):
        sizes = f"{list(shape[:3])} or {list(shape[1:3])}"
        raise UserError(f"missing must be bool {sizes}, got {missing.dtype} {list(missing.shape)}")
    if not missing.any():
        raise UserError("the mask is empty: no pixel is missing, so there is nothing to draw")
    if missing.all(axis=(-2, -1)).any():
        raise UserError("the mask covers all of an image: leave some pixels, or draw whole images with sample")
    return np.broadcast_to(missing, shape[:3])[..., np.newaxis]


def _compiled(model: "DVPVAE", function: Callable) -> Callable:
    """The function with the model as its first argument, compiled once."""
    return model.graphs.get(
        ("inpaint", function.__name__), lambda: tf.function(functools.partial(function, model), reduce_retracing=True)
    )


def _start(
    model: "DVPVAE", given: tf.Tensor, missing: tf.Tensor, keys: tf.Tensor, chains: int, steps: int | None
) -> _State:
    """A sample of the model for each chain, in place of the missing pixels."""
    rows = tf.shape(given)[0]
    streams = _streams(0, chains)
    samples = model.generate(noise.row_seeds(keys[0], streams, keys[1], rows), steps=steps, pixels="mean").images
    seen = _observed(model, given, keys)[0]
    nothing = tf.fill([rows], -np.inf)
    return _State(tf.where(_tile(missing, chains), samples, _tile(seen, chains)), given, given, nothing, nothing)


def _round(model, state, given, missing, keys, chains, approximate, steps):
    """One round of all chains."""
    rows = tf.shape(given)[0]
    streams = _streams(keys[2] + 1, chains)
    seeds = noise.row_seeds(keys[0], streams, keys[1], rows)
    seen, target = (_tile(each, chains) for each in _observed(model, given, keys))
    hidden = _tile(missing, chains)
    proposed = draw(model, ImageData(model.extract_features(state.pictures), target), seeds, steps)
    parameters = proposed.inference.likelihood_params
    pixel_log_probs = model.likelihood.pixel_log_probs(parameters, target)
    observed = tf.reduce_sum(tf.where(hidden[..., 0], 0.0, pixel_log_probs), axis=[1, 2])
    log_weights = importance_log_weight(proposed._replace(log_likelihood=observed))
    drawn = model.likelihood.draw(parameters, noise.fork(seeds, GenerationNoise.PIXELS))
    mean = model.likelihood.mean_images(parameters)
    pictures = tf.where(hidden, drawn if model.binary_encoder_input else mean, seen)
    # The candidate chosen so far has the weight of all before it.
    log_weights = tf.concat([tf.reshape(log_weights, [chains, rows]), state.log_sum[tf.newaxis]], axis=0)
    ends = tf.cumsum(tf.nn.softmax(log_weights, axis=0), axis=0)
    uniform = noise.uniform(noise.fork(seeds[:rows], GenerationNoise.COMPONENT), 1)[:, 0]
    chosen = tf.reduce_sum(tf.cast(ends[:-1] <= uniform * ends[-1], tf.int32), axis=0)
    if approximate:
        chosen = tf.zeros_like(chosen)
    places = chosen * rows + tf.range(rows)
    drawn, mean = (tf.gather(tf.concat(pair, axis=0), places) for pair in ((drawn, state.drawn), (mean, state.mean)))
    squares = tf.concat([2.0 * log_weights[:-1], state.log_sum_of_squares[tf.newaxis]], axis=0)
    return _State(pictures, drawn, mean, tf.reduce_logsumexp(log_weights, axis=0), tf.reduce_logsumexp(squares, axis=0))


def _observed(model: "DVPVAE", given: tf.Tensor, keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The images as the encoder sees them, and the targets of the likelihood: with one binary draw for all rounds."""
    seeds = noise.row_seeds(keys[0], Stream.FIRST_INPAINTED, keys[1], tf.shape(given)[0])
    return model.encoder_input_and_target(given, seeds)


def _streams(batch: int | tf.Tensor, chains: int) -> tf.Tensor:
    """The noise streams of a batch of draws, one of each chain: batch 0 starts them, each round has a further one."""
    return Stream.FIRST_INPAINTED - 1 - batch * chains - tf.range(chains)


def _tile(values: tf.Tensor, times: int) -> tf.Tensor:
    return tf.tile(values, [times, 1, 1, 1])
