"""A trained model with another prior over u, fitted to its r(u|x) as that is."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.errors import UserError
from dvpvae_tf.layers.pixels import gather_images
from dvpvae_tf.noise import InferenceNoise, Stream
from dvpvae_tf.priors import DiffusionPrior, LabelledMixturePrior, Prior, fit_diffusion, fit_full_mixture
from dvpvae_tf.priors.calibration import NOT_CALIBRATED
from dvpvae_tf.priors.process import check_calibrated_steps

if TYPE_CHECKING:
    from dvpvae_tf.models.dvpvae import DVPVAE

NO_PSEUDOINPUTS = "This model has no pseudoinputs to draw."
FEWEST_DRAWS = (16_000, 2_000)  # of u, of training and of validation images: several of each where there are fewer
BATCH_SIZE = 1000  # images that are encoded at a time


def draw_pseudoinputs(
    model: "DVPVAE", images: np.ndarray, num: int, seed: int = 0, stream: Stream = Stream.PSEUDOINPUTS
) -> np.ndarray:
    """Draws pseudoinputs of r(u|x), to fit a prior to.

    Args:
        model: an adapted model with pseudoinputs.
        images: `[N, D, D, C]`: uint8, or float32 in [0, 1].
        num: the number of draws. Where there are fewer images, there are several draws of each; where there are more,
            images at equal distances are taken.
        seed: of the noise.
        stream: of the noise.

    Returns:
        float32 array `[num, d, d, C]`.

    Raises:
        ValueError: if the model has no pseudoinputs.
    """
    if model.pseudoinput is None:
        raise ValueError(NO_PSEUDOINPUTS)
    chosen = np.arange(num) % len(images) if num > len(images) else np.arange(num) * len(images) // num
    draws = []
    for start in range(0, num, BATCH_SIZE):
        rows = chosen[start : start + BATCH_SIZE]
        seeds = noise.row_seeds(seed, stream, start, len(rows))
        inputs, _ = model.encoder_input_and_target(model.prepare(tf.constant(images[rows])), seeds)
        drawn = noise.normal(noise.fork(seeds, InferenceNoise.DRAW), model.pseudoinput.dimensions)
        drawn = tf.reshape(drawn, [-1, *model.pseudoinput.shape])
        draws.append(model.pseudoinput.sample(model.pseudoinput(inputs), drawn))
    return np.concatenate(draws)


def draws_to_fit(
    model: "DVPVAE", images: np.ndarray, validation: np.ndarray, seed: int = 0, parts: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the pseudoinputs that a prior is fitted to: at least one of each image, and `FEWEST_DRAWS` in all.

    Args:
        model: an adapted model with pseudoinputs.
        images: training images `[N, D, D, C]`: uint8, or float32 in [0, 1].
        validation: other images.
        seed: of the noise.
        parts: the number of priors that are fitted, each to its part of the images: they share `FEWEST_DRAWS`.

    Returns:
        float32 arrays `[num, d, d, C]`, of training and of validation images.

    Raises:
        ValueError: if the model has no pseudoinputs.
    """
    numbers = [max(len(each), least // parts) for each, least in zip((images, validation), FEWEST_DRAWS, strict=True)]
    return (
        draw_pseudoinputs(model, images, numbers[0], seed),
        draw_pseudoinputs(model, validation, numbers[1], seed, Stream.VALIDATION_PSEUDOINPUTS),
    )


def draws_to_calibrate(
    model: "DVPVAE",
    images: np.ndarray | tf.data.Dataset,
    validation: np.ndarray | tf.data.Dataset | None,
    draws: int,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the pseudoinputs that a diffusion prior is calibrated on: of each image ten at most.

    Args:
        model: an adapted model with pseudoinputs.
        images: training images `[N, D, D, C]`: uint8, or float32 in [0, 1]; or a data set of batches.
        validation: other images; None takes every tenth out of `images`.
        draws: how many of training images, and half as many of validation images.
        seed: of the noise.

    Returns:
        float32 arrays `[num, d, d, C]`, of training and of validation images.

    Raises:
        ValueError: if there are no images, a single one without others to validate on, or less than 2 draws.
    """
    images = gather_images(images)
    if draws < 2:
        raise ValueError(f"Calibration takes at least 2 draws, got {draws}.")
    if validation is None:
        if len(images) < 2:
            raise ValueError("Give at least 2 images, or other images as validation.")
        images, validation = np.delete(images, np.s_[::10], axis=0), images[::10]
    validation = gather_images(validation)
    return (
        draw_pseudoinputs(model, images, min(draws, 10 * len(images)), seed),
        draw_pseudoinputs(
            model, validation, min(draws // 2, 10 * len(validation)), seed, Stream.VALIDATION_PSEUDOINPUTS
        ),
    )


def with_prior(model: "DVPVAE", prior: Prior) -> "DVPVAE":
    """Gives a model with another prior over u and the same weights apart from it.

    Args:
        model: a model with pseudoinputs; it stays as it is.
        prior: a built prior, its weights in place.

    Returns:
        The new model.
    """
    config = model.get_config() | {"prior": keras.saving.serialize_keras_object(prior)}
    other = type(model).from_config(config)
    _copy_all_but_prior(model, other)
    other.prior.set_weights(prior.get_weights())  # type: ignore[union-attr]
    return other


def _copy_all_but_prior(model: "DVPVAE", other: "DVPVAE") -> None:
    for part in ("bottom_up", "top_down", "pseudoinput"):
        getattr(other, part).set_weights(getattr(model, part).get_weights())
    other.training_steps.assign(model.training_steps)


def with_full_mixture(
    model: "DVPVAE",
    images: np.ndarray | tf.data.Dataset,
    validation: np.ndarray | tf.data.Dataset,
    seed: int = 0,
    verbose: int = 1,
) -> "DVPVAE":
    """Gives the model with a mixture of Gaussians with full covariances as its prior over u.

    Args:
        model: trained, with pseudoinputs; it stays as it is.
        images: training images, an array `[N, D, D, C]` or a `tf.data.Dataset` of batches: uint8, or float32 in [0, 1].
        validation: other images, which choose the number of components and the regularisation.
        seed: of the draws of u and of EM.
        verbose: 1 prints each fit, 0 nothing.

    Returns:
        The model with the fitted prior.

    Raises:
        UserError: if no fit is finite.
        ValueError: if the model has no pseudoinputs, or there are no images.
    """
    u, validation_u = draws_to_fit(model, gather_images(images), gather_images(validation), seed)
    return with_prior(model, fit_full_mixture(u, validation_u, seed=seed, verbose=verbose))


def with_diffusion_prior(
    model: "DVPVAE",
    images: np.ndarray | tf.data.Dataset,
    validation: np.ndarray | tf.data.Dataset,
    steps: int | None = None,
    training_steps: int = 4000,
    seed: int = 0,
    verbose: int = 1,
    backup: str | Path | None = None,
) -> "DVPVAE":
    """Gives the model with a diffusion prior over u that is trained to its r(u|x), and calibrated.

    Where the model has a diffusion prior, its network is trained further; else a new one of the paper's size is.

    Args:
        model: trained, with pseudoinputs; it stays as it is.
        images: training images, an array `[N, D, D, C]` or a `tf.data.Dataset` of batches: uint8, or float32 in [0, 1].
        validation: other images, which choose the shrinkage and T of the calibrated process.
        steps: T of the process, at most 100; None takes the smallest within 0.2 nats of T = 50.
        training_steps: of the network, with 250 draws of u each; a multiple of 20.
        seed: random seed.
        verbose: 1 shows progress bars, 0 nothing.
        backup: a file for the state of training after each epoch. The same call goes on from it; a new network must
            start from the same weights, so call `keras.utils.set_random_seed` before it. The caller removes the file.

    Returns:
        The model with the trained prior.

    Raises:
        UserError: if T is no whole number from 1 to 100, `backup` belongs to another fit or cannot be written, or the
            trained prior cannot be calibrated.
        ValueError: if the model has no pseudoinputs, `training_steps` is no multiple of 20, or there are no images.
    """
    if model.pseudoinput is None:
        raise ValueError(NO_PSEUDOINPUTS)
    check_calibrated_steps(steps)
    if isinstance(model.prior, DiffusionPrior):
        prior = model.prior.ancestral()
    else:
        prior = DiffusionPrior(
            gamma_min=model.pseudoinput.initial_log_var, clip=model.pseudoinput.bounded, name="prior"
        )
        prior.build((None, *model.pseudoinput.shape))
    images, validation = gather_images(images), gather_images(validation)
    u, validation_u = draws_to_fit(model, images, validation, seed)
    fit_diffusion(prior, u, validation_u, training_steps, seed=seed, verbose=verbose, backup=backup)
    model = with_prior(model, prior)
    if model.calibrate(images, validation, steps, seed, verbose=verbose) is None:
        raise UserError(NOT_CALIBRATED)
    return model


def with_ancestral_process(model: "DVPVAE") -> "DVPVAE":
    """Gives the model without the calibration of its diffusion prior: it takes the paper's process.

    Args:
        model: any model; it stays as it is.

    Returns:
        The model with the ancestral process; the model itself where there is no calibration.
    """
    if not isinstance(model.prior, DiffusionPrior) or model.prior.calibrated_steps is None:
        return model
    return with_prior(model, model.prior.ancestral())


def kept_with_ancestral_process(model: "DVPVAE") -> "DVPVAE":
    """Gives what `with_ancestral_process` does, the same each time: a calibrated model keeps it with its graphs.

    Args:
        model: any model; its config stays as it is.

    Returns:
        The model with the ancestral process, its weights those of `model` now. It is not for changes.
    """
    if not isinstance(model.prior, DiffusionPrior) or model.prior.calibrated_steps is None:
        return model
    other = model.graphs.get("with_ancestral_process", lambda: with_ancestral_process(model))
    _copy_all_but_prior(model, other)
    other.prior.unet.set_weights(model.prior.unet.get_weights())  # type: ignore[union-attr]
    return other


def with_labelled_mixture(
    model: "DVPVAE",
    images: np.ndarray,
    labels: np.ndarray,
    validation: np.ndarray,
    validation_labels: np.ndarray,
    seed: int = 0,
    verbose: int = 1,
    class_names: Sequence[str] = (),
) -> "DVPVAE":
    """Gives the model with a full mixture for each class as its prior over u, so that it can be asked for a label.

    Args:
        model: trained, with pseudoinputs; it stays as it is.
        images: training images `[N, D, D, C]`: uint8, or float32 in [0, 1].
        labels: int `[N]`, from 0 on; their frequencies are p(c).
        validation: other images, which choose the number of components and the regularisation of each class.
        validation_labels: int `[V]`, the labels of these.
        seed: of the draws of u and of EM.
        verbose: 1 prints each fit, 0 nothing.
        class_names: of the labels 0, 1, ..., or none. The model keeps them.

    Returns:
        The model with the fitted prior, a `LabelledMixturePrior`.

    Raises:
        UserError: if a label is negative, a class has fewer than two training images or no validation image, or no fit
            of a class is finite.
    """
    counts = count_classes((labels, validation_labels), class_names)
    class_names, mixtures = class_names[: len(counts)], []
    for label in range(len(counts)):
        if verbose:
            print(f"label {' '.join([str(label), *class_names[label : label + 1]])}, {counts[label]} images")
        parts = images[labels == label], validation[validation_labels == label]
        u, validation_u = draws_to_fit(model, *parts, seed, len(counts))
        mixtures.append(fit_full_mixture(u, validation_u, seed=seed, verbose=verbose))
    return with_prior(model, LabelledMixturePrior.join(mixtures, counts / counts.sum(), class_names))


def count_classes(labels: Sequence[np.ndarray], class_names: Sequence[str] = ()) -> np.ndarray:
    """Counts the training images of each class, and checks that a mixture can be fitted to each.

    Args:
        labels: int arrays of the training, the validation and, where there are, the test images.
        class_names: of the labels 0, 1, ..., or none.

    Returns:
        int `[C]`, for the labels up to the largest one.

    Raises:
        UserError: if a label is negative, or a class has fewer than two training images or no validation image.
    """
    if min(each.min() for each in labels) < 0:
        raise UserError("labels count from 0, but there are negative ones: these data have no labels to fit")
    size = max(each.max() for each in labels) + 1
    counts, held_out = (np.bincount(each, minlength=size) for each in labels[:2])
    for label, (count, validation_count) in enumerate(zip(counts, held_out, strict=True)):
        if count < 2 or validation_count < 1:
            name = "".join(f" ({name})" for name in class_names[label : label + 1])
            raise UserError(
                f"label {label}{name} has {count} training and {validation_count} validation images: a class needs at "
                "least 2 and 1"
            )
    return counts
