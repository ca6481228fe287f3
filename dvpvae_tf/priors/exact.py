"""The base class of priors with an exact density."""

import keras

from dvpvae_tf.priors.terms import ExactTerms, PriorEstimate

NO_STEPS = "This model has no diffusion prior: leave out steps."


class ExactPrior(keras.layers.Layer):
    """A prior over pseudoinputs whose density is known: the base of those that have a `log_prob`.

    Called on pseudoinputs it gives `negative_bound`.

    Args:
        **kwargs: passed to `keras.layers.Layer`. The dtype is float32 always.
    """

    bound_noise_size = 0  # the density is exact
    steps = None  # and no steps lead to it

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def build(self, u_shape, noise_shape=None):
        self.shape = tuple(u_shape[1:])

    def call(self, u, noise=None, training=False):
        return self.negative_bound(u)

    def negative_bound(self, u, noise=None, training=False):
        """-log r(u), exactly.

        Args:
            u: float32 tensor `[N, d, d, C]`.
            noise: not used.
            training: not used.

        Returns:
            `ExactTerms`, nats.
        """
        return ExactTerms(-self.log_prob(u))

    def check_steps(self, steps: int | None) -> None:
        """Checks that no number of steps is given.

        Args:
            steps: T; must be None.

        Raises:
            ValueError: if a number is given.
        """
        if steps is not None:
            raise ValueError(NO_STEPS)

    def estimate_noise_size(self, steps=None):
        """How many normal numbers a row `estimate` takes, an int: none."""
        return 0

    def estimate(self, u, noise=None, steps=None):
        """Computes log r(u) exactly, there being no trajectory.

        Args:
            u: float32 tensor `[N, d, d, C]`.
            noise: not used.
            steps: not used.

        Returns:
            `PriorEstimate`: `ExactTerms`, and log r(u) as the log-weight, nats.
        """
        terms = self.negative_bound(u)
        return PriorEstimate(terms, -terms.cross_entropy)

    def compute_output_shape(self, u_shape, noise_shape=None):
        return ((u_shape[0],),)
