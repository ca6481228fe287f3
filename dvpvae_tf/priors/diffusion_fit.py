"""Trains a diffusion prior alone, on draws of the r(u|x) of a trained model."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf.errors import UserError, first_line
from dvpvae_tf.files import write_atomically
from dvpvae_tf.optimizers import FusedAdamax
from dvpvae_tf.priors.diffusion import DiffusionPrior

LEARNING_RATE, END_LEARNING_RATE = 0.01, 1e-5  # as in Table 7
WARM_UP_STEPS = 200
CLIP_NORM = 5.0
EPOCHS = 20  # how often the progress is shown and backed up
SAME_FIT = 1e-5  # how far weights and means of u may differ by rounding


def fit_diffusion(
    prior: DiffusionPrior,
    u: np.ndarray,
    validation_u: np.ndarray,
    training_steps: int = 4000,
    batch_size: int = 250,
    seed: int = 0,
    verbose: int = 1,
    backup: str | Path | None = None,
) -> keras.callbacks.History:
    """Trains the network of a diffusion prior on the continuous-time bound (Eq. 16, 31); r(u|x) does not change.

    The times of a batch are evenly spread over [0, 1]. The prior ends with the averaged weights.

    Args:
        prior: built; its weights are where training starts.
        u: float32 `[N, d, d, C]`, draws of r(u|x) of training images.
        validation_u: the same of validation images; their bound is shown.
        training_steps: how many, a multiple of `EPOCHS`.
        batch_size: draws in a step.
        seed: of the order and the noise.
        verbose: 1 shows a progress bar, 0 nothing.
        backup: a file for the state of training after each epoch. The same call goes on from it, and ends with the
            same weights as without a stop. The caller removes the file.

    Returns:
        The history of `keras.Model.fit`: "loss" and "val_loss" are bounds of -log r(u) in nats.

    Raises:
        UserError: if `backup` belongs to another fit, or cannot be written.
        ValueError: if `training_steps` is no multiple of `EPOCHS`.
    """
    if training_steps < 1 or training_steps % EPOCHS:
        raise ValueError(f"training_steps must be a multiple of {EPOCHS}, got {training_steps}.")
    model, steps_per_epoch = _Bound(prior), training_steps // EPOCHS
    warm_up = min(WARM_UP_STEPS, training_steps // 2)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        training_steps - warm_up,
        alpha=END_LEARNING_RATE / LEARNING_RATE,
        warmup_target=LEARNING_RATE,
        warmup_steps=warm_up,
    )
    optimizer = FusedAdamax(rate, global_clipnorm=CLIP_NORM, use_ema=True)
    model.compile(optimizer, loss=lambda _, bound: bound)
    optimizer.build(model.trainable_variables)
    callbacks, done = [keras.callbacks.SwapEMAWeights()], 0
    if backup is not None:
        start = [np.ravel(weight) for weight in prior.get_weights()]
        numbers = [EPOCHS, training_steps, batch_size, seed, len(u), len(validation_u)]
        means = [np.ravel(each.mean(axis=0, dtype="float64")) for each in (u, validation_u)]
        callbacks.append(_Backup(Path(backup), np.concatenate([numbers, *means, *start])))
        done = callbacks[-1].restore(model, verbose)
    train = tf.data.Dataset.from_tensor_slices(u).shuffle(len(u), seed).repeat()
    validation = tf.data.Dataset.from_tensor_slices(validation_u)
    size = min(batch_size, len(validation_u))
    return model.fit(
        _with_noise(train, batch_size, prior.bound_noise_size, seed, first_step=done * steps_per_epoch),
        validation_data=_with_noise(validation, size, prior.bound_noise_size, seed + 1),
        initial_epoch=done,
        epochs=EPOCHS,
        steps_per_epoch=steps_per_epoch,
        shuffle=False,  # the data set shuffles
        callbacks=callbacks,
        verbose=verbose,
    )


class _Bound(keras.Model):
    """A prior as a model that Keras trains: from u and noise to the bound of -log r(u), `[N]` in nats."""

    def __init__(self, prior: DiffusionPrior):
        super().__init__(name="bound_of_prior", dtype="float32", autocast=False)  # u and noise stay float32
        self.prior = prior

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool = False) -> tf.Tensor:
        return tf.add_n(self.prior(*inputs, training=training))


class _Backup(keras.callbacks.Callback):
    """Keeps the state of a fit after each epoch in one file, which is written whole or not at all.

    Keras's `BackupAndRestore` writes two files in place, lets HDF5 write to the disk, which crashes the process where
    that is full, and restores what belongs to another fit.

    Args:
        path: the file.
        task: float64 vector: numbers that only the same fit has.
    """

    def __init__(self, path: Path, task: np.ndarray):
        super().__init__()
        self.path = path
        self.task = task

    def restore(self, model: keras.Model, verbose: int) -> int:
        """Gives a compiled model, its optimizer built, the state in the file; returns how many epochs are done."""
        if not self.path.exists():
            return 0
        state = _state_of(model)
        try:
            with np.load(self.path) as file:
                epochs, task = int(file["epochs"]), file["task"]
                values = [file[str(number)] for number in range(len(state))]
        except Exception as error:  # NumPy and zipfile raise many types for a damaged file
            print(f"{self.path} is damaged and left out ({first_line(error)})")
            return 0
        if task.shape != self.task.shape or not np.allclose(task, self.task, rtol=0, atol=SAME_FIT):
            raise UserError(
                f"{self.path} is the backup of a fit with another model, other images or settings: remove it, or give "
                "another output"
            )
        for variable, value in zip(state, values, strict=True):
            variable.assign(value)
        if verbose:
            print(f"Going on after epoch {epochs} of {EPOCHS}, from {self.path}")
        return epochs

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        values = {str(number): variable.numpy() for number, variable in enumerate(_state_of(self.model))}

        def write(path: Path) -> None:
            with open(path, "wb") as file:  # to a path NumPy adds .npz
                np.savez(file, epochs=epoch + 1, task=self.task, **values)

        write_atomically(self.path, write)


def _state_of(model: keras.Model) -> list[keras.Variable]:
    """Weights, seeds of dropout, and the optimizer's step, moments and averaged weights."""
    return [*model.variables, *model.optimizer.variables]


def _with_noise(
    draws: tf.data.Dataset, batch_size: int, noise_size: int, seed: int, first_step: int = 0
) -> tf.data.Dataset:
    """Batches of u with noise for the bound, whose first number says the time; and targets that are not used.

    They begin with the batch of `first_step`.
    """

    def add_noise(step: tf.Tensor, u: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], tf.Tensor]:
        noise = tf.random.stateless_normal([batch_size, noise_size - 1], tf.stack([tf.cast(seed, tf.int64), step]))
        start = tf.random.stateless_uniform([], tf.stack([tf.cast(seed, tf.int64), -1 - step]))
        time = (start + tf.range(batch_size, dtype=tf.float32) / batch_size) % 1.0
        time = tf.math.ndtri(tf.clip_by_value(time, 1e-6, 1.0 - 1e-6))  # the prior maps it back to [0, 1]
        return (u, tf.concat([time[:, tf.newaxis], noise], axis=1)), tf.zeros([batch_size])

    batches = draws.batch(batch_size, drop_remainder=True).skip(first_step).enumerate(first_step)
    return batches.map(add_noise, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
