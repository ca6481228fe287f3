"""Fits a calibrated process to a trained denoiser: the covariances of its errors, the best times, and T."""

import dataclasses
import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.noise import Stream
from dvpvae_tf.priors.covariances import FullCovariances, kind_of
from dvpvae_tf.priors.noise_schedule import LinearNoiseSchedule
from dvpvae_tf.priors.process import GRID_TIMES, check_calibrated_steps

ROWS_AT_A_TIME = 500
SHRINKAGES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
COMPARED_STEPS = np.array([1, 2, 5, 10])  # shrinkages are compared by their mean bound at these T
# T is the smallest whose bound is within TOLERANCE nats of that of REFERENCE_STEPS.
REFERENCE_STEPS = 50
TOLERANCE = 0.2
NOT_CALIBRATED = (
    "The diffusion prior cannot be calibrated: its errors are not finite, or have no positive definite covariance"
)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What a calibrated process needs, and how good it is on held-out draws.

    Attributes:
        covariances: float32 `[101, width]`, C_t at the 101 times of the grid, packed.
        paths: uint8 `[100, 101]`; row T - 1 starts with the T + 1 places on the grid, from time 1 to 0.
        steps: T.
        shrinkage: how far each C_t was moved towards its diagonal, from 0 to 1.
        negative_bounds: item T - 1 is the cost of T steps on the held-out draws: an upper bound of -E log r(u), in
            nats, without the term of y_1, which is the same for all T.
    """

    covariances: np.ndarray
    paths: np.ndarray
    steps: int
    shrinkage: float
    negative_bounds: np.ndarray


def calibrate(
    schedule: LinearNoiseSchedule,
    predict_u: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    u: np.ndarray,
    validation_u: np.ndarray,
    steps: int | None = None,
    seed: int = 0,
    verbose: int = 0,
) -> Calibration | None:
    """Estimates C_t at each time of the grid, and chooses the times of the steps, the shrinkage of C_t and T.

    Args:
        schedule: gamma(t).
        predict_u: gives u_hat from y_t, float32 `[N, d, d, C]`, and times, float32 `[N]` or `[1]`.
        u: float32 array `[N, d, d, C]`, draws of r(u|x) of training images.
        validation_u: the same of validation images: shrinkage and T are chosen on it.
        steps: T, at most 100; None takes the smallest within 0.2 nats of T = 50.
        seed: of the noise of y_t.
        verbose: 1 shows a progress bar, 0 nothing.

    Returns:
        The calibration; None where errors are not finite or have no positive definite covariance.

    Raises:
        UserError: if T is no whole number from 1 to 100.
    """
    check_calibrated_steps(steps)
    moments = SecondMoments(schedule, predict_u, u.shape[1:])
    progress = keras.utils.Progbar(len(u) + len(validation_u), verbose=verbose, unit_name="pseudoinput")
    errors, held_out = (
        moments.of(draws, seed, stream, progress)
        for draws, stream in ((u, Stream.CALIBRATION), (validation_u, Stream.CALIBRATION_VALIDATION))
    )
    if not (np.isfinite(errors).all() and np.isfinite(held_out).all()):
        return None
    best, least = None, np.inf
    for shrinkage in SHRINKAGES:
        covariances = shrink(errors, shrinkage)
        if covariances.ndim == 2 and shrinkage > 0.0:
            break  # diagonal already
        fit = _fit(schedule, covariances, held_out)
        if fit is not None and fit[1][COMPARED_STEPS - 1].mean() < least:
            best, least = (shrinkage, fit, covariances), fit[1][COMPARED_STEPS - 1].mean()
    if best is None:
        return None
    shrinkage, (paths, bounds), covariances = best
    if steps is None:
        steps = 1 + int(np.argmax(bounds <= bounds[REFERENCE_STEPS - 1] + TOLERANCE))
    packed = kind_of(math.prod(u.shape[1:])).pack(covariances)
    return Calibration(packed, paths, steps, shrinkage, bounds)


class SecondMoments:
    """Estimates C_t at each time of the grid from one draw of y_t for each u and time; its graph is traced once.

    Args:
        schedule: gamma(t).
        predict_u: gives u_hat from y_t, float32 `[N, d, d, C]`, and times, float32 `[N]` or `[1]`.
        shape: `(d, d, C)`, the shape of u.
    """

    def __init__(
        self,
        schedule: LinearNoiseSchedule,
        predict_u: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        shape: tuple[int, int, int],
    ):
        size, times = math.prod(shape), tf.constant(GRID_TIMES, tf.float32)
        full = kind_of(size) is FullCovariances

        @tf.function(input_signature=[tf.TensorSpec([None, *shape]), tf.TensorSpec([None, 2], tf.int32)])
        def sums(u, seeds):
            drawn = tf.reshape(noise.normal(seeds, len(GRID_TIMES) * size), [-1, len(GRID_TIMES), *shape])

            def of_time(i):
                predicted = predict_u(schedule.diffuse(u, times[i], drawn[:, i]), times[i, tf.newaxis])
                errors = tf.cast(tf.reshape(u - predicted, [-1, size]), tf.float64)
                return tf.matmul(errors, errors, transpose_a=True) if full else tf.reduce_sum(errors**2, axis=0)

            return tf.map_fn(of_time, tf.range(len(GRID_TIMES)), fn_output_signature=tf.float64)

        self._sums = sums

    def of(self, u: np.ndarray, seed: int, stream: int, progress: keras.utils.Progbar | None = None) -> np.ndarray:
        """Estimates the second moments E[(u - u_hat)(u - u_hat)^T] at each time of the grid for given pseudoinputs.

        Args:
            u: float32 array `[N, d, d, C]`.
            seed: of the noise of y_t.
            stream: of the noise, see `dvpvae_tf.noise.row_seeds`.
            progress: counts the rows that are done.

        Returns:
            float64 `[101, P, P]`, or `[101, P]` if u is too large for full covariances.
        """
        total = np.zeros(())
        for start in range(0, len(u), ROWS_AT_A_TIME):
            batch = u[start : start + ROWS_AT_A_TIME]
            total = total + self._sums(batch, noise.row_seeds(seed, stream, start, len(batch))).numpy()
            if progress:
                progress.add(len(batch))
        return total / len(u)


def shrink(covariances: np.ndarray, shrinkage: float) -> np.ndarray:
    """Moves covariance matrices towards their diagonals: the elements beside it are multiplied by 1 - shrinkage."""
    if covariances.ndim == 2:
        return covariances
    return np.where(np.eye(covariances.shape[-1], dtype=bool), covariances, (1.0 - shrinkage) * covariances)


def _fit(schedule, covariances, held_out):
    """The best paths, and for each T the cost of its path on the held-out draws; None if C_0 is not positive."""
    values, others = _spectra(covariances, held_out)
    if not values[0].min() > 1e-12:
        return None
    snr = np.exp(-schedule.gamma(GRID_TIMES))
    paths = best_paths(step_costs(values, snr))
    costs = step_costs(values, snr, others)
    last = 0.5 * np.sum(np.log(2.0 * np.pi * values[0]) + others[0] / values[0])
    return paths.astype("uint8"), np.array([costs[path[:-1], path[1:]].sum() + last for path in paths])


def _spectra(covariances, held_out):
    """The eigenvalues of each C_t, and the held-out second moments along its eigenvectors, `[101, P]` each."""
    if covariances.ndim == 2:
        return covariances, held_out
    values, vectors = np.linalg.eigh(covariances)
    return np.maximum(values, 0.0), np.einsum("tji,tjk,tki->ti", vectors, held_out, vectors, optimize=True)


def step_costs(values: np.ndarray, snr: np.ndarray, moments: np.ndarray | None = None) -> np.ndarray:
    """Computes the expected KL of a step between any two times of the grid, from q(y_s|y_t, u) to the model's step.

    Args:
        values: `[G, P]`, the eigenvalues of C_t at each time of the grid.
        snr: `[G]`, the signal-to-noise ratios there, falling.
        moments: `[G, P]`, the second moments of the errors along the eigenvectors, on the draws in question; None for
            those that C_t comes from.

    Returns:
        `[G, G]`, nats: item (j, k) is the step from j to k, infinite where k is later than j.
    """
    costs = np.full((len(snr), len(snr)), np.inf)
    for j, value in enumerate(values):
        gain = (snr[: j + 1] - snr[j])[:, None]
        costs[j, : j + 1] = 0.5 * np.log1p(gain * value).sum(axis=1)
        if moments is not None:
            costs[j, : j + 1] += 0.5 * (gain * (moments[j] - value) / (1.0 + gain * value)).sum(axis=1)
    return costs


def best_paths(costs: np.ndarray) -> np.ndarray:
    """Finds the cheapest way from the last to the first time of a grid in at most T steps, for each T.

    Args:
        costs: `[G, G]`, see `step_costs`.

    Returns:
        int `[G - 1, G]`: row T - 1 is the path of T steps, then zeros. A step may stay where it is, at no cost.
    """
    last = len(costs) - 1
    best, came_from = costs[last], []
    for _ in range(1, last):
        totals = best[:, None] + costs
        came_from.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
    paths = np.zeros((last, last + 1), int)
    for steps in range(1, last + 1):
        path = [0]
        for choice in reversed(came_from[: steps - 1]):
            path.append(choice[path[-1]])
        paths[steps - 1, : steps + 1] = [last, *reversed(path)]
    return paths
