"""The base class of priors over pseudoinputs with an exact density."""

import abc
from typing import Any

import tensorflow as tf

from dvpvae_tf.layers.shape import Shape
from dvpvae_tf.priors.prior import NO_STEPS, Prior
from dvpvae_tf.priors.terms import ExactTerms, PriorEstimate


class ExactPrior(Prior):
    """A prior over pseudoinputs whose density is known. A subclass has `log_prob`, `sample_noise_size` and `sample`.

    Args:
        **kwargs: passed to `keras.layers.Layer`. The dtype is float32 always.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{**kwargs, "dtype": "float32"})

    @abc.abstractmethod
    def log_prob(self, u: tf.Tensor) -> tf.Tensor:
        """Computes log r(u).

        Args:
            u: float32 `[N, d, d, C]`.

        Returns:
            float32 `[N]`, nats.
        """

    @property
    def steps(self) -> None:
        """None: the prior has no steps."""

    @property
    def process_name(self) -> None:
        """None: the prior has no steps."""

    def check_steps(self, steps: int | None) -> None:
        """Checks that no number of steps is given.

        Args:
            steps: must be None.

        Raises:
            ValueError: if a number is given.
        """
        if steps is not None:
            raise ValueError(NO_STEPS)

    @property
    def bound_noise_size(self) -> int:
        """0: the density is exact."""
        return 0

    def negative_bound(self, u: tf.Tensor, noise: tf.Tensor | None = None, training: bool = False) -> ExactTerms:
        """Computes -log r(u).

        Args:
            u: float32 `[N, d, d, C]`.
            noise: not used.
            training: not used.

        Returns:
            `ExactTerms`, nats.
        """
        return ExactTerms(-self.log_prob(u))

    def estimate_noise_size(self, steps: int | None = None) -> int:
        """0, there being no trajectory; `steps` is not used."""
        return 0

    def estimate(self, u: tf.Tensor, noise: tf.Tensor | None = None, steps: int | None = None) -> PriorEstimate:
        """Computes log r(u) exactly.

        Args:
            u: float32 `[N, d, d, C]`.
            noise: not used.
            steps: not used.

        Returns:
            `ExactTerms`, and log r(u) as the log-weight, nats.
        """
        terms = self.negative_bound(u)
        return PriorEstimate(terms, -terms.cross_entropy)

    def compute_output_shape(self, u_shape: Shape, noise_shape: Shape | None = None) -> tuple[Shape]:
        return ((u_shape[0],),)
