"""Sampling in batches, shared out to the devices of the machine."""

import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.distribute.devices import device_of, map_round_robin
from dvpvae_tf.distribute.sharding import smaller_batch
from dvpvae_tf.errors import UserError, did_you_mean
from dvpvae_tf.models.latents import check_latents
from dvpvae_tf.models.outputs import Latents, Samples, SamplingOptions, check_pixels
from dvpvae_tf.priors.labelled_mixture import find_label

if TYPE_CHECKING:
    from dvpvae_tf.models.generative_model import GenerativeModel

# On each device: many operations of a sampling step are too small to keep one busy.
BATCHES_AT_ONCE = 2


def sample_in_batches(
    model: "GenerativeModel",
    num: int,
    seed: int = 0,
    batch_size: int = 250,
    first: int = 0,
    copies: Sequence["GenerativeModel"] = (),
    **options: Unpack[SamplingOptions],
) -> Iterator[Samples]:
    """Generates images batch by batch, for more of them than memory holds.

    Image i depends on the model, the seed, the options and i alone.

    Args:
        model: an adapted `DVPVAE`.
        num: the number of images, at least 1.
        seed: random seed.
        batch_size: images in a batch; bounds the memory.
        first: index of the first image, where those before it are drawn elsewhere.
        copies: copies of the model on other devices, which take batches in turn with it, see
            `dvpvae_tf.distribute.devices.copies_on_other_devices`.
        **options: see `SamplingOptions`.

    Returns:
        Iterator of `Samples` of arrays; the last one holds the images left.

    Raises:
        TypeError: if there is no such option.
        ValueError: if a number or an option is out of its range, or `adapt` has not been called.
    """
    model.check_fitted()
    if not all(isinstance(number, numbers.Integral) and number >= 1 for number in (num, batch_size)):
        raise ValueError(f"num and batch_size must be whole numbers from 1 on, got {num!r} and {batch_size!r}.")
    num, batch_size = int(num), int(batch_size)  # NumPy's integers have types that TensorFlow does not mix
    checked = _checked(model, options)
    seeds = noise.row_seeds(seed, noise.Stream.SAMPLING, first, num)
    models = (model, *copies)
    size = smaller_batch(num, batch_size, len(models))
    samplers = [_sampler(each, checked) for each in models] * BATCHES_AT_ONCE
    return map_round_robin(samplers, (seeds[start : start + size] for start in range(0, num, size)))


def check_prior_temperature(model: "GenerativeModel", prior_temperature: float) -> None:
    """Checks that a model has what the option `prior_temperature` is for.

    Args:
        model: a `DVPVAE`.
        prior_temperature: see `SamplingOptions`.

    Raises:
        UserError: if it is not 1 and the model has no prior over u.
    """
    if prior_temperature != 1 and model.prior is None:
        raise UserError("prior_temperature is for models with pseudoinputs, and this one has none: leave it out")


def _checked(model: "GenerativeModel", options: SamplingOptions) -> dict[str, Any]:
    """The options, their numbers as tensors, so that a graph serves all temperatures, labels and pseudoinputs."""
    for name in options.keys() - SamplingOptions.__annotations__.keys():
        known = SamplingOptions.__annotations__
        raise TypeError(f"There is no option {name}{did_you_mean(name, known)}: there are {', '.join(known)}.")
    check_pixels(options.get("pixels", "draw"))
    steps = model.check_steps(options.get("steps"))
    temperatures: dict[str, Any] = {name: options.get(name, 1.0) for name in ("temperature", "prior_temperature")}
    if not all(isinstance(value, numbers.Real) and 0 <= float(value) < math.inf for value in temperatures.values()):
        given = ", ".join(map(repr, temperatures.values()))
        raise ValueError(f"Temperatures must be 0 or more, one number each for all images, got {given}.")
    check_prior_temperature(model, float(temperatures["prior_temperature"]))
    checked = {**options} | {name: tf.constant(float(value)) for name, value in temperatures.items()}
    if options.get("steps") is not None:
        checked["steps"] = steps  # an int, whatever the user's type is
    label, pseudoinput = options.get("label"), options.get("pseudoinput")
    if pseudoinput is not None and (options.get("steps") is not None or temperatures["prior_temperature"] != 1):
        raise UserError("steps and prior_temperature say how u is drawn: leave them out where there is a pseudoinput")
    if label is not None and pseudoinput is not None:
        raise ValueError("A label says what u is drawn from: leave it out where there is a pseudoinput.")
    if label is not None:
        checked["label"] = tf.constant(find_label(model.prior, label), tf.int32)
    if pseudoinput is not None:
        check_latents(model, Latents(u=np.asarray(pseudoinput)[np.newaxis]))
        checked["pseudoinput"] = tf.constant(pseudoinput, tf.float32)
    return checked


def _sampler(model: "GenerativeModel", options: dict[str, Any]) -> Callable[[tf.Tensor], Samples]:
    """The function from keys to `Samples` of arrays; its one graph is for batches of all sizes."""
    with device_of(model):
        model.generate_function.get_concrete_function(tf.TensorSpec([None, 2], tf.int32), **options)

    def sample(seeds):
        with device_of(model):
            drawn = model.generate_function(seeds, **options)
        return Samples(*(None if part is None else part.numpy() for part in drawn))

    return sample


def decode_in_batches(
    model: "GenerativeModel",
    latents: Latents,
    temperature: float = 1.0,
    pixels: Literal["draw", "mean"] = "mean",
    seed: int = 0,
    batch_size: int = 250,
) -> Iterator[np.ndarray]:
    """Decodes latents batch by batch.

    It takes the arguments of `GenerativeModel.decode`, after the model, and raises the same errors.

    Yields:
        float32 `[B, D, D, C]` in [0, 1].
    """
    model.check_fitted()
    noise.check_seed(seed)
    if not isinstance(batch_size, numbers.Integral) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number from 1 on, got {batch_size!r}.")
    rows = check_latents(model, latents)
    options = _checked(model, {"temperature": temperature, "pixels": pixels})
    seeds = noise.row_seeds(seed, noise.Stream.SAMPLING, 0, rows)

    def given(take):
        parts = {} if latents.u is None else {"pseudoinput": take(latents.u)}
        return options | parts | {"latents": [None if each is None else take(each) for each in latents.z]}

    with device_of(model):  # one graph for batches of all sizes
        specs = given(lambda value: tf.TensorSpec([None, *value.shape[1:]], tf.float32))
        model.generate_function.get_concrete_function(tf.TensorSpec([None, 2], tf.int32), **specs)
    for start in range(0, rows, batch_size):
        part = slice(start, start + batch_size)
        with device_of(model):
            batch = given(lambda value, part=part: tf.constant(value[part], tf.float32))
            yield model.generate_function(seeds[part], **batch).images.numpy()
