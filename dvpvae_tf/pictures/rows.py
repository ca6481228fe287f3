"""Pictures for people: rows of images, as files, for TensorBoard and for notebooks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.config.temperatures import LOW_TEMPERATURE, PICTURE_PRIOR_TEMPERATURE, PICTURE_TEMPERATURE
from dvpvae_tf.errors import UserError
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.noise import GenerationNoise, InferenceNoise, Stream

SMALLEST_SIDE = 64  # of an image in a saved picture, in pixels: smaller ones are enlarged towards it
WHITE = 255


def grid(rows: Sequence[np.ndarray], gap: int = 2, scale: int = 1) -> np.ndarray:
    """Arranges images in a grid on a white ground.

    Args:
        rows: one array a row, `[columns, h, w, C]`, float in [0, 1] or uint8, all of one shape.
        gap: pixels between images, before scaling.
        scale: side of the square that each pixel becomes, in pixels.

    Returns:
        uint8 `[height, width, C]`.
    """
    images = np.stack([to_uint8(row) for row in rows])
    images = np.pad(images, ((0, 0), (0, 0), (gap, 0), (gap, 0), (0, 0)), constant_values=WHITE)
    height, width, channels = images.shape[0] * images.shape[2], images.shape[1] * images.shape[3], images.shape[4]
    picture = images.transpose(0, 2, 1, 3, 4).reshape(height, width, channels)
    picture = np.pad(picture, ((0, gap), (0, gap), (0, 0)), constant_values=WHITE)
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def to_uint8(images: np.ndarray | tf.Tensor) -> np.ndarray:
    """Rounds images to the 256 levels of a file.

    Args:
        images: of any shape: float, clipped to [0, 1], or uint8, left as they are.

    Returns:
        uint8, of that shape.
    """
    images = np.asarray(images)
    return images if images.dtype == np.uint8 else (WHITE * np.clip(images, 0, 1)).round().astype("uint8")


def samples(model: DVPVAE, columns: int = 16, seed: int = 0) -> list[np.ndarray]:
    """Draws the rows of Figure 3: pseudoinputs above, the images made from them below.

    The temperatures are `PICTURE_TEMPERATURE` and `PICTURE_PRIOR_TEMPERATURE`, below 1, and the pixels are means: the
    images are likely ones, with less variety than samples have.

    Args:
        model: an adapted model.
        columns: the number of samples.
        seed: random seed.

    Returns:
        Two arrays `[columns, D, D, C]` in [0, 1]; the images alone for the Ladder VAE.
    """
    of_prior = {} if model.prior is None else {"prior_temperature": PICTURE_PRIOR_TEMPERATURE}
    drawn = model.sample_with_pseudoinputs(
        columns, temperature=PICTURE_TEMPERATURE, seed=seed, pixels="mean", **of_prior
    )
    return [row for row in (drawn.pseudoinputs, drawn.images) if row is not None]


def rows_of_samples(images: np.ndarray, pseudoinputs: np.ndarray | None = None, columns: int = 8) -> list[np.ndarray]:
    """Arranges samples in rows for `grid`, each image below its pseudoinput (Figure 3).

    Args:
        images: array `[N, D, D, C]`, float in [0, 1] or uint8.
        pseudoinputs: array like `images`, or None for the Ladder VAE.
        columns: samples in a row.

    Returns:
        uint8 arrays `[columns, h, D, C]`: h is D, or 2 D + 3 with pseudoinputs and white lines between. Where
        the last row is not full, the rest of it is white.
    """
    tiles = to_uint8(images)
    if pseudoinputs is not None:
        gap = np.full_like(tiles[:, :1], WHITE)
        tiles = np.concatenate([to_uint8(pseudoinputs), gap, tiles, gap, gap], axis=1)
    missing = -len(tiles) % columns
    tiles = np.pad(tiles, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=WHITE)
    return np.split(tiles, len(tiles) // columns)


def samples_of_one_pseudoinput(
    model: DVPVAE, rows: int = 5, temperature: float = 1.0, prior_temperature: float = 1.0, seed: int = 0
) -> np.ndarray:
    """Draws one pseudoinput from the prior and images that share it (Figure 6).

    Args:
        model: an adapted model with pseudoinputs.
        rows: the number of images.
        temperature: factor of the standard deviation of every p(z_l|z_above, u).
        prior_temperature: factor of the noise of the prior over u.
        seed: random seed.

    Returns:
        float32 `[1 + rows, D, D, C]` in [0, 1]: the pseudoinput, then the images.

    Raises:
        ValueError: if the model has no pseudoinputs, `adapt` has not been called, or the prior is not fitted.
    """
    model.check_fitted()
    if model.pseudoinput is None or model.prior is None:
        raise ValueError("This model has no pseudoinputs: take another.")
    keys = noise.row_seeds(seed, Stream.SAMPLING, 0, rows)
    size = model.prior.sample_noise_size()
    drawn = noise.normal(noise.fork(keys[:1], GenerationNoise.PSEUDOINPUT), size)
    condition = model.pseudoinput.decode(model.prior.sample(drawn, temperature=prior_temperature))
    noise_z = noise.normals(noise.fork(keys, GenerationNoise.LATENTS), model.top_down.latent_shapes)
    images = _generate(model, noise_z, tf.repeat(condition, rows, axis=0), temperature)
    return np.concatenate([_to_picture(condition), images])


def reconstructions(model: DVPVAE, images: np.ndarray) -> list[np.ndarray]:
    """Returns images above, their noise-free reconstructions below.

    Args:
        model: an adapted model.
        images: uint8 `[columns, D, D, C]`.

    Returns:
        Two uint8 arrays `[columns, D, D, C]`.
    """
    return [to_uint8(images), to_uint8(model.reconstruct(images))]


def partial_reconstructions(
    model: DVPVAE, images: np.ndarray, temperature: float = LOW_TEMPERATURE, seed: int = 0
) -> dict[str, np.ndarray]:
    """Reconstructs images from u alone, then from u and the latents of ever more scales, coarsest first (Figure 4).

    What is inferred is drawn from its posterior, all other latents from their priors, with one noise in all rows.

    Args:
        model: an adapted model.
        images: `[columns, D, D, C]`: uint8, or float32 in [0, 1].
        temperature: factor of the standard deviation of those z that come from their priors.
        seed: random seed. The noise of an image depends on the seed and its place in `images`.

    Returns:
        dict from what is inferred to a float32 array `[columns, D, D, C]` in [0, 1], top row first: "input",
        "pseudoinput", "u", "u, z at 4 x 4", "u, z at 4 x 4, 8 x 8" and so on; for the Ladder VAE "input",
        "z at 4 x 4" and so on.

    Raises:
        ValueError: if the images are of another shape, or `adapt` has not been called.
    """
    model.check_adapted()
    images = model.prepare(tf.convert_to_tensor(images))
    seeds = noise.row_seeds(seed, Stream.EVALUATION, 0, len(images))
    all_features = model.extract_features(model.encoder_input_and_target(images, seeds)[0])
    latent_noise = noise.normals(noise.fork(seeds, InferenceNoise.DRAW), model.latent_noise_shapes)
    rows: dict[str, Any] = {"input": images}
    scales = model.top_down.scales[::-1]
    for inferred in range(0 if model.pseudoinput else 1, len(scales) + 1):
        features = {side: all_features.by_side[side] for side in scales[:inferred]}
        inference = model.walk(all_features._replace(by_side=features), latent_noise, temperature)
        names = [f"z at {', '.join(f'{side} x {side}' for side in features)}"] if features else []
        if model.pseudoinput is not None:
            names = ["u", *names]
            rows["pseudoinput"] = _to_picture(model.pseudoinput.decode(inference.pseudoinput))
        rows[", ".join(names)] = model.likelihood.images(inference.likelihood_params)
    return {name: row.numpy() for name, row in rows.items()}


def _to_picture(condition):
    """A decoded pseudoinput, which may exceed [0, 1] a little, as a picture."""
    return tf.clip_by_value(condition, 0.0, 1.0)


def interpolation(
    model: DVPVAE,
    first: np.ndarray,
    second: np.ndarray,
    columns: int = 10,
    temperature: float = LOW_TEMPERATURE,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Goes from one image to another, in u alone and in u and z.

    Both are inferred without noise. u is interpolated linearly. Each z is first whitened by the prior that it met on
    its way down, e = (z - prior mean) / prior deviation; e is interpolated spherically and takes the place of the
    noise when the model generates from the interpolated u. So the ends are the noise-free reconstructions, and all
    between is made as samples are.

    Args:
        model: an adapted model.
        first: `[D, D, C]`: uint8, or float32 in [0, 1]. It goes to the encoder as it is.
        second: an image like `first`.
        columns: images on the way, both ends counted, at least 2.
        temperature: factor of the standard deviation of z in the row "u".
        seed: of the noise of z in that row, the same in all columns.

    Returns:
        dict from what changes along the row to a float32 array `[columns, D, D, C]` in [0, 1], top row first: "input"
        (white but for the ends), "pseudoinput", "u" (z is drawn from its priors), "u, z"; for the Ladder VAE "input"
        and "z".

    Raises:
        UserError: if the model has a VampPrior.
        ValueError: if there are fewer than two columns, the images are of another shape, or `adapt` has not been
            called.

    Source: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985, for the spherical interpolation.
    """
    if model.top_prior is not None:
        raise UserError("Under a VampPrior the top latent has no noise to interpolate: take another model.")
    if columns < 2:
        raise ValueError(f"An interpolation needs at least 2 columns, got {columns}.")
    model.check_adapted()
    ends = model.prepare(tf.convert_to_tensor(np.stack([first, second])))
    inference = model.infer(ends, sample=False)
    between = tf.ones([columns - 2, *model.image_shape])
    rows: dict[str, Any] = {"input": tf.concat([ends[:1], between, ends[1:]], axis=0)}
    weights = np.linspace(0.0, 1.0, columns, dtype="float32")[:, None, None, None]
    layers = zip(inference.latents, inference.prior_means, inference.prior_log_vars, strict=True)
    whitened = [((z - mean) * tf.exp(-0.5 * log_var)).numpy() for z, mean, log_var in layers]
    noise_z = [tf.constant(_spherical(start, end, weights)) for start, end in whitened]
    if model.pseudoinput is None:
        rows["z"] = _generate(model, noise_z)
    else:
        first_u, second_u = tf.unstack(inference.pseudoinput)
        condition = model.pseudoinput.decode((1.0 - weights) * first_u + weights * second_u)
        drawn = noise.normals(noise.row_seeds(seed, Stream.EVALUATION, 0, 1), model.top_down.latent_shapes)
        drawn = [tf.repeat(of_layer, columns, axis=0) for of_layer in drawn]
        rows["pseudoinput"] = _to_picture(condition)
        rows["u"] = _generate(model, drawn, condition, temperature)
        rows["u, z"] = _generate(model, noise_z, condition)
    return {name: row.numpy() for name, row in rows.items()}


def _generate(
    model: DVPVAE, noise_z: Sequence[tf.Tensor], condition: tf.Tensor | None = None, temperature: float = 1.0
) -> tf.Tensor:
    parameters, _ = model.top_down(noise_z, condition, temperature=temperature)
    return model.likelihood.images(parameters)


def _spherical(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spherical interpolation of two arrays; linear if they are parallel or one is 0."""
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    angle = np.arccos(np.clip(np.sum(first * second) / lengths, -1.0, 1.0)) if lengths > 0 else 0.0
    if np.sin(angle) < 1e-4:
        return (1.0 - weights) * first + weights * second
    return (np.sin((1.0 - weights) * angle) * first + np.sin(weights * angle) * second) / np.sin(angle)


def save(path: str | Path, rows: Sequence[np.ndarray]) -> None:
    """Writes a grid of images as a PNG file, small images enlarged.

    Args:
        path: the file.
        rows: see `grid`.
    """
    scale = max(1, SMALLEST_SIDE // rows[0].shape[2])
    keras.utils.save_img(path, grid(rows, scale=scale), data_format="channels_last", scale=False)
