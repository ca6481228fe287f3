"""Trains a diffusion prior alone, on draws of the r(u|x) of a trained model."""

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf.optimizers import FusedAdamax
from dvpvae_tf.priors.diffusion import DiffusionPrior

LEARNING_RATE, END_LEARNING_RATE = 0.01, 1e-5  # as in Table 7
WARM_UP_STEPS = 200
CLIP_NORM = 5.0
EPOCHS = 20  # how often the progress is shown


def fit_diffusion(
    prior: DiffusionPrior,
    u: np.ndarray,
    validation_u: np.ndarray,
    steps: int = 4000,
    batch_size: int = 250,
    seed: int = 0,
    verbose: int = 1,
) -> keras.callbacks.History:
    """Trains the network of a diffusion prior on the continuous-time bound (Eq. 16, 31); r(u|x) does not change.

    The times of a batch are evenly spread over [0, 1]. The prior ends with the averaged weights.

    Args:
        prior: built; its weights are where training starts.
        u: float32 `[N, d, d, C]`, draws of r(u|x) of training images.
        validation_u: the same of validation images; their bound is shown.
        steps: training steps, at least `EPOCHS`.
        batch_size: draws in a step.
        seed: of the order and the noise.
        verbose: 1 shows a progress bar, 0 nothing.

    Returns:
        The history of `keras.Model.fit`: "loss" and "val_loss" are bounds of -log r(u) in nats.
    """
    model = _Bound(prior)
    warm_up = min(WARM_UP_STEPS, steps // 2)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        steps - warm_up,
        alpha=END_LEARNING_RATE / LEARNING_RATE,
        warmup_target=LEARNING_RATE,
        warmup_steps=warm_up,
    )
    model.compile(FusedAdamax(rate, global_clipnorm=CLIP_NORM, use_ema=True), loss=lambda _, bound: bound)
    train = tf.data.Dataset.from_tensor_slices(u).shuffle(len(u), seed).repeat()
    validation = tf.data.Dataset.from_tensor_slices(validation_u)
    size = min(batch_size, len(validation_u))
    return model.fit(
        _with_noise(train, batch_size, prior.bound_noise_size, seed),
        validation_data=_with_noise(validation, size, prior.bound_noise_size, seed + 1),
        epochs=EPOCHS,
        steps_per_epoch=steps // EPOCHS,
        shuffle=False,  # the data set shuffles
        callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True)],
        verbose=verbose,
    )


class _Bound(keras.Model):
    """A prior as a model that Keras trains: from u and noise to the bound of -log r(u), `[N]` in nats."""

    def __init__(self, prior: DiffusionPrior):
        super().__init__(name="bound_of_prior")
        self.prior = prior

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool = False) -> tf.Tensor:
        return tf.add_n(self.prior(*inputs, training=training))


def _with_noise(draws: tf.data.Dataset, batch_size: int, noise_size: int, seed: int) -> tf.data.Dataset:
    """Batches of u with noise for the bound, whose first number says the time; and targets that are not used."""

    def add_noise(step: tf.Tensor, u: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], tf.Tensor]:
        noise = tf.random.stateless_normal([batch_size, noise_size - 1], tf.stack([tf.cast(seed, tf.int64), step]))
        start = tf.random.stateless_uniform([], tf.stack([tf.cast(seed, tf.int64), -1 - step]))
        time = (start + tf.range(batch_size, dtype=tf.float32) / batch_size) % 1.0
        time = tf.math.ndtri(tf.clip_by_value(time, 1e-6, 1.0 - 1e-6))  # the prior maps it back to [0, 1]
        return (u, tf.concat([time[:, tf.newaxis], noise], axis=1)), tf.zeros([batch_size])

    batches = draws.batch(batch_size, drop_remainder=True).enumerate()
    return batches.map(add_noise, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
