"""The signatures of an exported model: what a server answers.

They work row by row, as a server puts rows of several requests into one batch: a row's answer depends on that row
alone, and a row that cannot be answered says why in `error`, gets NaN or a blank picture, and harms no other.
"""

import functools

import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.evaluation.bounds import negative_elbo_terms
from dvpvae_tf.models.dvpvae import EVALUATION_STREAM, SAMPLING_STREAM

WHITE = 1.0
PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def signatures_of(model, steps=None, prior_temperature=1.0):
    """Makes the signatures of a model.

    * `sample` takes `seed` int64 `[N]` and `temperature` float32 `[N]` (of z, at least 0) and gives `images` and
      `pseudoinputs`, float32 `[N, D, D, C]` in [0, 1]; for seeds from 0 to 2^31 - 1 the image is that of
      `model.sample(1, seed=seed)`. `sample_png` gives the same as files, `image_bytes` and `pseudoinput_bytes`.
    * `reconstruct` takes `images` and gives `reconstructions`; `reconstruct_png` takes `image_bytes`, PNG files of the
      model's size, and gives `reconstruction_bytes`. Both are without noise.
    * `encode` takes `images` and gives `pseudoinput`, the mean of r(u|x), and the posterior means `z_L` to `z_1`.
    * `score` takes `images` and `seed` and gives `negative_elbo`, of T steps from one draw, and its terms
      `reconstruction`, `kl_z` and `kl_u`, in nats `[N]`.

    Each gives `error`, a string a row, too. What a model without pseudoinputs does not have is left out.

    Args:
        model: `DVPVAE`.
        steps: int or None, T of the diffusion prior; None takes its own.
        prior_temperature: float, factor of the noise of the prior over u.

    Returns:
        dict from names to `tf.function`s.
    """
    images = tf.TensorSpec([None, *model.image_shape], tf.float32, "images")
    seed = tf.TensorSpec([None], tf.int64, "seed")
    temperature = tf.TensorSpec([None], tf.float32, "temperature")
    image_bytes = tf.TensorSpec([None], tf.string, "image_bytes")
    sample = functools.partial(_sample, model, steps, prior_temperature)
    reconstruct = functools.partial(_reconstruct, model)
    return {
        "sample": tf.function(sample, input_signature=[seed, temperature]),
        "sample_png": tf.function(_in_png(sample), input_signature=[seed, temperature]),
        "reconstruct": tf.function(reconstruct, input_signature=[images]),
        "reconstruct_png": tf.function(_from_png(model, _in_png(reconstruct)), input_signature=[image_bytes]),
        "encode": tf.function(functools.partial(_encode, model), input_signature=[images]),
        "score": tf.function(functools.partial(_score, model, steps), input_signature=[images, seed]),
    }


def _sample(model, steps, prior_temperature, seed, temperature):
    good = tf.math.is_finite(temperature) & (temperature >= 0)
    safe = tf.where(good, temperature, 0.0)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    samples = model.generate(noise.keys_of(seed, SAMPLING_STREAM), safe, prior_temperature, steps)
    finite = tf.reduce_all(tf.math.is_finite(samples.images), axis=[1, 2, 3])
    values = {name: value for name, value in samples._asdict().items() if value is not None}
    return _answer(
        values,
        (~good, "temperature must be a finite number of at least 0"),
        (~finite, "temperature is so high that the image is not finite"),
    )


def _reconstruct(model, images):
    images, problem = _checked(images)
    return _answer({"reconstructions": model.reconstruct(images)}, problem)


def _encode(model, images):
    images, problem = _checked(images)
    inference = model.infer(images, sample=False)
    values = {f"z_{model.num_layers - i}": mean for i, mean in enumerate(inference.posterior_means)}
    if inference.pseudoinput is not None:
        values["pseudoinput"] = inference.pseudoinput
    return _answer(values, problem)


def _score(model, steps, images, seed):
    images, problem = _checked(images)
    return _answer(negative_elbo_terms(model, images, noise.keys_of(seed, EVALUATION_STREAM), steps), problem)


def _checked(images):
    """The images, black in place of those that are out of range, and which these are."""
    good = tf.reduce_all((images >= 0) & (images <= 1), axis=[1, 2, 3])  # NaN is neither
    return tf.where(good[:, tf.newaxis, tf.newaxis, tf.newaxis], images, 0.0), (~good, "pixels must be in [0, 1]")


def _answer(values, *problems):
    """The outputs: NaN in bad rows, and `error`, the first of their problems (pairs of which rows, and why)."""
    errors = tf.fill(tf.shape(problems[0][0]), "")
    for bad, why in reversed(problems):
        errors = tf.where(bad, why, errors)
    bad = errors != ""
    outputs = {}
    for name, value in values.items():
        of_row = tf.reshape(bad, [-1, *[1] * (len(value.shape) - 1)])
        outputs[name] = tf.where(of_row, tf.constant(float("nan"), value.dtype), value)
    return outputs | {"error": errors}


def _in_png(signature):
    """The signature with PNG files in place of images."""

    def in_png(*inputs):
        outputs = signature(*inputs)
        errors = outputs.pop("error")
        return {f"{name.removesuffix('s')}_bytes": _to_png(value) for name, value in outputs.items()} | {
            "error": errors
        }

    return in_png


def _to_png(images):
    pixels = tf.cast(tf.round(255.0 * tf.where(tf.math.is_finite(images), images, WHITE)), tf.uint8)
    return tf.map_fn(tf.io.encode_png, pixels, fn_output_signature=tf.TensorSpec([], tf.string))


def _from_png(model, signature):
    """The signature that takes PNG files in place of images."""
    height, width, channels = model.image_shape
    start = PNG_START + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08"  # the depth: 8 bits
    blank = tf.io.encode_png(tf.zeros(model.image_shape, tf.uint8)).numpy()

    def decode(file):
        return tf.ensure_shape(tf.io.decode_png(file, channels), model.image_shape)

    def from_png(image_bytes):
        padding = " " * len(start)  # a part of a string must not begin outside it
        good = tf.strings.substr(image_bytes + padding, 0, len(start)) == start
        good &= tf.strings.substr(padding + image_bytes, -len(PNG_END), len(PNG_END)) == PNG_END
        files = tf.where(good, image_bytes, blank)
        pixels = tf.map_fn(decode, files, fn_output_signature=tf.TensorSpec(model.image_shape, tf.uint8))
        images = tf.where(
            good[:, tf.newaxis, tf.newaxis, tf.newaxis], tf.cast(pixels, tf.float32) / 255.0, float("nan")
        )
        outputs = signature(images)
        why = f"image_bytes must be a whole PNG file of {width} x {height} pixels"
        return outputs | {"error": tf.where(good, outputs["error"], why)}

    return from_png


def save(path, model, steps=None, prior_temperature=1.0):
    """Writes a SavedModel with the signatures of a model; its `serving_default` is `sample`.

    Args:
        path: path of the folder to write.
        model: see `signatures_of`.
        steps: see `signatures_of`.
        prior_temperature: see `signatures_of`.
    """
    signatures = signatures_of(model, steps, prior_temperature)
    holder = tf.Module()
    holder.weights = [weight.value for weight in model.variables]  # what is not tracked, a server does not find
    tf.saved_model.save(holder, str(path), {"serving_default": signatures["sample"], **signatures})
