"""The signatures of an exported model: the functions that a server calls.

Each row is computed by itself, as a server puts rows of several requests into one batch: the outputs of a row depend on
that row alone. For an invalid row `error` says why, and its other outputs are NaN or a white image.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.layers.pixels import in_unit_range
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.models.draws import negative_elbo_terms
from dvpvae_tf.models.likelihoods import BernoulliLikelihood
from dvpvae_tf.noise import Stream
from dvpvae_tf.priors import LabelledMixturePrior

Outputs = dict[str, tf.Tensor]
Signature = Callable[..., Outputs]
Problem = tuple[tf.Tensor, tf.Tensor | str]  # which rows are invalid, bool `[N]`, and why

WHITE = 1.0
# A PNG file begins with 16 fixed bytes. Width and height follow, 4 bytes each, then its depth and its type of colour.
PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
PNG_HEADER_SIZE = 26
# Regular expressions over bytes (`\C` is any byte). Some programs append bytes after the end, which do not matter.
PNG_WITH_END = r"(?s)\C*\x00\x00\x00\x00IEND\C{4}\C*"
PNG_WITH_ALPHA = r"(?s)\C{25}[\x04\x06]\C*|\C*tRNS\C*"


def save(path: str | Path, model: DVPVAE, steps: int | None = None, prior_temperature: float = 1.0) -> None:
    """Writes a SavedModel with the signatures of a model; its `serving_default` is `sample`.

    Args:
        path: folder to write.
        model: see `make_signatures`.
        steps: see `make_signatures`.
        prior_temperature: see `make_signatures`.

    Raises:
        ValueError: see `make_signatures`.
    """
    signatures = make_signatures(model, steps, prior_temperature)
    holder = tf.Module()
    holder.weights = [weight.value for weight in model.variables]  # a server does not find untracked variables
    tf.saved_model.save(holder, str(path), {"serving_default": signatures["sample"], **signatures})


def make_signatures(
    model: DVPVAE, steps: int | None = None, prior_temperature: float = 1.0
) -> dict[str, tf.types.experimental.PolymorphicFunction]:
    """Makes the signatures of a model.

    * `sample` takes `seed` int64 `[N]` and `temperature` float32 `[N]` (of z, at least 0). It returns `images` and
      `pseudoinputs`, float32 `[N, D, D, C]` in [0, 1]. For seeds from 0 to 2^31 - 1 the image equals
      `model.sample(1, seed=seed)`. `sample_png` returns the same as PNG files, `image_bytes` and `pseudoinput_bytes`.
    * `sample_mean` and `sample_mean_png` do the same with the mean of p(x|z) in place of a draw: smoother pictures, but
      no samples of the model. With a Bernoulli likelihood both are the mean.
    * `sample_label`, `sample_label_png`, `sample_mean_label` and `sample_mean_label_png` take `label` int32 `[N]`, too,
      and give images of that class. Only models whose prior has labels have them.
    * `decode` takes `pseudoinput` float32 `[N, d, d, C]`, `seed` and `temperature`, draws every z given this u, and
      returns `images`, the mean of p(x|z). Models without pseudoinputs do not have it.
    * `reconstruct` takes `images` and returns `reconstructions`; `reconstruct_png` takes `image_bytes`, PNG files of
      the model's size, and returns `reconstruction_bytes`. Both use no noise.
    * `encode` takes `images` and returns `pseudoinput`, the mean of r(u|x), and the posterior means `z_L` to `z_1`.
    * `score` takes `images` and `seed` and returns `negative_elbo`, of T steps from one draw, and its terms
      `reconstruction`, `kl_z` and `kl_u`, float32 `[N]`, in nats.

    Each also returns `error`, string `[N]`. A model without pseudoinputs leaves out the outputs that it lacks.

    Args:
        model: trained model.
        steps: T of the diffusion prior; None takes its own.
        prior_temperature: factor of the noise of the prior over u.

    Returns:
        `tf.function`s by name.

    Raises:
        ValueError: if `steps` is given for a prior without diffusion steps.
    """
    images = tf.TensorSpec([None, *model.image_shape], tf.float32, "images")
    seed = tf.TensorSpec([None], tf.int64, "seed")
    temperature = tf.TensorSpec([None], tf.float32, "temperature")
    image_bytes = tf.TensorSpec([None], tf.string, "image_bytes")
    reconstruct = tf.function(functools.partial(_reconstruct, model), input_signature=[images])
    reconstruct_png = _taking_png(_returning_png(reconstruct), model.image_shape)
    sample = functools.partial(_sample, model, steps, prior_temperature)
    found = _samplers(model, sample, "", [seed, temperature])
    if isinstance(model.prior, LabelledMixturePrior):
        label = tf.TensorSpec([None], tf.int32, "label")
        found |= _samplers(model, sample, "_label", [seed, temperature, label])
    if model.pseudoinput is not None:
        pseudoinput = tf.TensorSpec([None, *model.pseudoinput.shape], tf.float32, "pseudoinput")
        decode = functools.partial(_decode, model)
        found["decode"] = tf.function(decode, input_signature=[pseudoinput, seed, temperature])
    return found | {
        "reconstruct": reconstruct,
        "reconstruct_png": tf.function(reconstruct_png, input_signature=[image_bytes]),
        "encode": tf.function(functools.partial(_encode, model), input_signature=[images]),
        "score": tf.function(functools.partial(_score, model, steps), input_signature=[images, seed]),
    }


def _samplers(
    model: DVPVAE, sample: Signature, suffix: str, inputs: list[tf.TensorSpec]
) -> dict[str, tf.types.experimental.PolymorphicFunction]:
    """The signatures that sample: draws and means of p(x|z), as arrays and as PNG files."""
    # A function within a function is traced once: those of PNG files call those of arrays.
    draw = mean = tf.function(functools.partial(sample, "draw"), input_signature=inputs)
    if not isinstance(model.likelihood, BernoulliLikelihood):
        mean = tf.function(functools.partial(sample, "mean"), input_signature=inputs)
    return {
        f"sample{suffix}": draw,
        f"sample{suffix}_png": tf.function(_returning_png(draw), input_signature=inputs),
        f"sample_mean{suffix}": mean,
        f"sample_mean{suffix}_png": tf.function(_returning_png(mean), input_signature=inputs),
    }


def _sample(
    model: DVPVAE,
    steps: int | None,
    prior_temperature: float,
    pixels: Literal["draw", "mean"],
    seed: tf.Tensor,
    temperature: tf.Tensor,
    label: tf.Tensor | None = None,
) -> Outputs:
    temperature, problem = _check_temperature(temperature)
    good, why = tf.ones_like(seed, tf.bool), ""
    if label is not None and isinstance(model.prior, LabelledMixturePrior):
        good = (label >= 0) & (label < model.prior.num_labels)
        label, why = tf.where(good, label, 0), f"label must be from 0 to {model.prior.num_labels - 1}"
    keys = noise.keys_of(seed, Stream.SAMPLING)
    samples = model.generate(keys, temperature, prior_temperature, steps, pixels=pixels, label=label)
    values = {name: value for name, value in samples._asdict().items() if value is not None}
    return _with_error(values, problem, (~good, why), _overflow(samples.images))


def _decode(model: DVPVAE, pseudoinput: tf.Tensor, seed: tf.Tensor, temperature: tf.Tensor) -> Outputs:
    temperature, problem = _check_temperature(temperature)
    good = tf.reduce_all(tf.math.is_finite(pseudoinput), axis=[1, 2, 3])
    pseudoinput = tf.where(good[:, tf.newaxis, tf.newaxis, tf.newaxis], pseudoinput, 0.0)
    keys = noise.keys_of(seed, Stream.SAMPLING)
    images = model.generate(keys, temperature, pixels="mean", pseudoinput=pseudoinput).images
    return _with_error({"images": images}, problem, (~good, "pseudoinput must be finite"), _overflow(images))


def _check_temperature(temperature: tf.Tensor) -> tuple[tf.Tensor, Problem]:
    """The temperatures `[N, 1, 1, 1]`, with 0 in place of bad ones, and which rows these are."""
    good = tf.math.is_finite(temperature) & (temperature >= 0)
    safe = tf.where(good, temperature, 0.0)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return safe, (~good, "temperature must be a finite number of at least 0")


def _overflow(images: tf.Tensor) -> Problem:
    finite = tf.reduce_all(tf.math.is_finite(images), axis=[1, 2, 3])
    return ~finite, "temperature is so high that the image is not finite"


def _reconstruct(model: DVPVAE, images: tf.Tensor) -> Outputs:
    images, problem = _check_pixels(images)
    return _with_error({"reconstructions": model.reconstruct(images)}, problem)


def _encode(model: DVPVAE, images: tf.Tensor) -> Outputs:
    images, problem = _check_pixels(images)
    inference = model.infer(images, sample=False)
    values = {f"z_{model.num_layers - i}": mean for i, mean in enumerate(inference.posterior_means)}
    if inference.pseudoinput is not None:
        values["pseudoinput"] = inference.pseudoinput
    return _with_error(values, problem)


def _score(model: DVPVAE, steps: int | None, images: tf.Tensor, seed: tf.Tensor) -> Outputs:
    images, problem = _check_pixels(images)
    return _with_error(negative_elbo_terms(model, images, noise.keys_of(seed, Stream.EVALUATION), steps), problem)


def _check_pixels(images: tf.Tensor) -> tuple[tf.Tensor, Problem]:
    """The images, with black ones in place of those that leave [0, 1], and which rows these are."""
    good = tf.reduce_all(in_unit_range(images), axis=[1, 2, 3])
    return tf.where(good[:, tf.newaxis, tf.newaxis, tf.newaxis], images, 0.0), (~good, "pixels must be in [0, 1]")


def _with_error(values: Outputs, *problems: Problem) -> Outputs:
    """The outputs with `error`, and with NaN in the rows that have one."""
    errors = _first_problem(*problems)
    outputs = {}
    for name, value in values.items():
        invalid = tf.reshape(errors != "", [-1, *[1] * (len(value.shape) - 1)])
        outputs[name] = tf.where(invalid, tf.constant(float("nan"), value.dtype), value)
    return outputs | {"error": errors}


def _first_problem(*problems: Problem) -> tf.Tensor:
    """The reason of the first problem that each row has, string `[N]`; "" where it has none."""
    errors = tf.fill(tf.shape(problems[0][0]), "")
    for invalid, reason in reversed(problems):
        errors = tf.where(invalid, reason, errors)
    return errors


def _returning_png(signature: Signature) -> Signature:
    """The signature with PNG files in place of the images that it returns."""

    def returning_png(*inputs):
        outputs = signature(*inputs)
        error = outputs.pop("error")
        files = {f"{name.removesuffix('s')}_bytes": _encode_png(images) for name, images in outputs.items()}
        return files | {"error": error}

    return returning_png


def _encode_png(images: tf.Tensor) -> tf.Tensor:
    """PNG files, string `[N]`, of images float32 `[N, D, D, C]`; NaN becomes white."""
    pixels = tf.cast(tf.round(255.0 * tf.where(tf.math.is_finite(images), images, WHITE)), tf.uint8)
    return tf.map_fn(tf.io.encode_png, pixels, fn_output_signature=tf.TensorSpec([], tf.string))


def _taking_png(signature: Signature, image_shape: tuple[int, int, int]) -> Signature:
    """The signature that takes PNG files in place of images."""
    height, width, _ = image_shape
    blank = tf.io.encode_png(tf.zeros(image_shape, tf.uint8)).numpy()
    spec = tf.TensorSpec(image_shape, tf.float32)

    def taking_png(files):
        padded = files + PNG_HEADER_SIZE * " "  # a substring must not begin outside the string
        is_png = tf.strings.substr(padded, 0, len(PNG_START)) == PNG_START
        is_whole = tf.strings.regex_full_match(files, PNG_WITH_END)
        sides = tf.io.decode_raw(tf.strings.substr(padded, len(PNG_START), 8), tf.int32, little_endian=False)
        sides = tf.reshape(sides, [-1, 2])  # also where there are no rows
        fits = tf.reduce_all(sides == [width, height], axis=1)
        found = tf.strings.reduce_join(tf.strings.as_string(sides), axis=1, separator=" x ")
        problems = (
            (~is_png, "image_bytes is not a PNG file"),
            (~fits, "image_bytes is a PNG file of " + found + f" pixels: the model takes {width} x {height}"),
            (~is_whole, "image_bytes is a PNG file that is cut short"),
        )
        good = is_png & fits & is_whole
        decode = functools.partial(_decode_png, image_shape=image_shape)
        images = tf.map_fn(decode, tf.where(good, files, blank), fn_output_signature=spec)
        outputs = signature(tf.where(good[:, tf.newaxis, tf.newaxis, tf.newaxis], images, float("nan")))
        return outputs | {"error": _first_problem(*problems, (good, outputs["error"]))}

    return taking_png


def _decode_png(file: tf.Tensor, image_shape: tuple[int, int, int]) -> tf.Tensor:
    """The image of a PNG file of any depth, float32 in [0, 1]; transparent pixels are laid on white."""
    image = _decode_channels(file, image_shape[-1])
    # Without this condition, the alpha of files of fewer than 8 bits comes out wrong.
    has_alpha = tf.strings.regex_full_match(file, PNG_WITH_ALPHA)
    alpha = tf.where(has_alpha, _decode_channels(file, 4)[..., 3:], 1.0)
    return tf.ensure_shape(image + (WHITE - image) * (1.0 - alpha), image_shape)


def _decode_channels(file: tf.Tensor, channels: int) -> tf.Tensor:
    return tf.cast(tf.io.decode_png(file, channels, tf.uint16), tf.float32) / 65535.0
