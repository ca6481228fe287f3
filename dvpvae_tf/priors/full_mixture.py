"""A mixture of Gaussians with full covariances as the prior over pseudoinputs, fitted to a trained r(u|x) by EM."""

import math
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf.errors import UserError
from dvpvae_tf.layers.gaussian import LOG_2_PI
from dvpvae_tf.layers.shape import Shape
from dvpvae_tf.noise import to_uniform
from dvpvae_tf.priors.covariances import FullCovariances
from dvpvae_tf.priors.exact import ExactPrior

COMPONENTS = (1, 5, 10, 20, 30, 40, 60, 80, 100)  # tried in this order, for as long as the validation gets better
REG_COVARS = (1e-3, 3e-3)  # added to all variances; the first one while the components are chosen


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class FullMixturePrior(ExactPrior):
    """A mixture of Gaussians with full covariances over the whole of u. Its density is exact; it takes no steps.

    `fit_full_mixture` makes one; no gradient trains it.

    Args:
        components: how many Gaussians.
        **kwargs: passed to `ExactPrior`.
    """

    def __init__(self, components: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.components = components

    def build(self, u_shape: Shape, noise_shape: Shape | None = None) -> None:
        super().build(u_shape)
        size = math.prod(self.shape)

        def fixed(name, *shape):
            return self.add_weight(shape=shape, initializer="zeros", trainable=False, autocast=False, name=name)

        self.log_weights = fixed("log_weights", self.components)
        self.means = fixed("means", self.components, size)
        self.covariances = fixed("covariances", self.components, FullCovariances.width(size))

    @property
    def fitted(self) -> bool:
        """Whether the Gaussians are there."""
        return bool(tf.reduce_any(self.covariances.value != 0.0))

    def set_gaussians(self, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> None:
        """Makes this the mixture of the given Gaussians.

        Args:
            weights: `[K]`, positive, of sum 1.
            means: `[K, P]`.
            covariances: `[K, P, P]`, positive definite.
        """
        self.log_weights.assign(np.log(weights))
        self.means.assign(means)
        self.covariances.assign(FullCovariances.pack(covariances))

    def log_prob(self, u: tf.Tensor) -> tf.Tensor:
        return tf.reduce_logsumexp(self.component_log_probs(u), axis=1)

    def component_log_probs(self, u: tf.Tensor) -> tf.Tensor:
        """Computes the log of each weighted Gaussian, of which r(u) is the sum.

        Args:
            u: float32 `[N, d, d, C]`.

        Returns:
            float32 `[N, K]`, nats.
        """
        size, gaussians = math.prod(self.shape), self._gaussians()
        distances = gaussians.whiten(tf.reshape(u, [-1, 1, size]) - self.means)
        constants = self.log_weights - gaussians.half_log_det - 0.5 * size * LOG_2_PI
        return constants - 0.5 * tf.reduce_sum(tf.square(distances), axis=2)

    def sample_noise_size(self, steps: int | None = None) -> int:
        return 1 + math.prod(self.shape)

    def sample(self, noise: tf.Tensor, steps: int | None = None, temperature: float | tf.Tensor = 1.0) -> tf.Tensor:
        """Draws a component, then u from its Gaussian.

        Args:
            noise: float32 `[N, sample_noise_size()]`, standard normal.
            steps: not used.
            temperature: the factor of the Gaussian's standard deviation.

        Returns:
            float32 `[N, d, d, C]`.
        """
        ends = tf.cumsum(tf.exp(self.log_weights.value))
        component = tf.minimum(tf.searchsorted(ends, to_uniform(noise[:, 0]), side="right"), self.components - 1)
        return self.sample_components(component, noise[:, 1:], temperature)

    def sample_components(
        self, component: tf.Tensor, noise: tf.Tensor, temperature: float | tf.Tensor = 1.0
    ) -> tf.Tensor:
        """Draws pseudoinputs from given components.

        Args:
            component: int `[N]`, the number of each row's Gaussian.
            noise: float32 `[N, P]`, standard normal.
            temperature: the factor of the Gaussian's standard deviation.

        Returns:
            float32 `[N, d, d, C]`.
        """
        factors = tf.gather(self._gaussians().factors, component)
        drawn = tf.reshape(tf.linalg.matvec(factors, noise), [-1, *self.shape])
        return tf.reshape(tf.gather(self.means, component), [-1, *self.shape]) + temperature * drawn

    def _gaussians(self) -> FullCovariances:
        return FullCovariances(FullCovariances.unpack(self.covariances.value))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "components": self.components}


def fit_full_mixture(
    u: np.ndarray,
    validation_u: np.ndarray,
    components: tuple[int, ...] = COMPONENTS,
    seed: int = 0,
    verbose: int = 1,
) -> FullMixturePrior:
    """Fits a mixture by expectation maximisation; its components and its regularisation are chosen on validation draws.

    Args:
        u: float32 `[N, d, d, C]`, draws of r(u|x) of training images. Where there are few images, several of each.
        validation_u: the same of validation images.
        components: numbers of components to try, rising; the search stops where the validation does not get better.
        seed: of the starts of EM.
        verbose: 1 prints each fit, 0 nothing.

    Returns:
        The prior, with the name "prior" as in all models of this library.

    Raises:
        UserError: if no fit is finite.
    """
    flat, held_out = (np.reshape(draws, [len(draws), -1]).astype("float64") for draws in (u, validation_u))
    if not (np.isfinite(flat).all() and np.isfinite(held_out).all()):
        raise UserError("The pseudoinputs are not finite: no mixture can be fitted to them.")
    best, best_log_prob = None, -np.inf

    def better(number, reg_covar):
        nonlocal best, best_log_prob
        mixture, log_prob = _fit(flat, held_out, number, reg_covar, seed)
        if verbose:
            print(f"{number} components, reg_covar {reg_covar:g}: -log r(u) {-log_prob:.2f} nats on validation images")
        if not log_prob > best_log_prob:
            return False
        best, best_log_prob = mixture, log_prob
        return True

    for number in components:
        if number > len(flat) // 2 or not better(number, REG_COVARS[0]):
            break
    if best is None:
        raise UserError("No mixture could be fitted to the pseudoinputs: their covariances collapse.")
    for reg_covar in REG_COVARS[1:]:
        better(best.n_components, reg_covar)
    prior = FullMixturePrior(best.n_components, name="prior")
    prior.build((None, *u.shape[1:]))
    prior.set_gaussians(best.weights_, best.means_, best.covariances_)
    return prior


def _fit(u, held_out, components, reg_covar, seed):
    """A mixture, and its mean log density on held-out draws: minus infinity where the fit fails."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture  # slow to import, and for fitting alone
    from threadpoolctl import threadpool_limits

    mixture = GaussianMixture(components, reg_covar=reg_covar, random_state=seed % 2**32)  # seeds may be negative
    # One thread: the matrices are small, and threads that wait for one another made it ten times slower.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # 100 iterations are as far as it pays to go
        try:
            log_prob = mixture.fit(u).score(held_out)
        except (ValueError, np.linalg.LinAlgError):  # what it raises where a covariance collapses
            return None, -np.inf
    return mixture, log_prob if np.isfinite(log_prob) else -np.inf
