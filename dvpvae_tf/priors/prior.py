"""What a model asks of its prior over pseudoinputs: the base class of all of them."""

import abc

import keras
import tensorflow as tf

from dvpvae_tf.layers.shape import Shape
from dvpvae_tf.priors.terms import PriorEstimate, Terms

NO_STEPS = "This model has no diffusion prior: leave out steps."


class Prior(keras.layers.Layer, abc.ABC):
    """A prior r(u) over pseudoinputs u, float32 `[N, d, d, C]`.

    Three things are asked of it: a bound to train on (`negative_bound`), draws (`sample`), and estimates of log r(u)
    for evaluation (`estimate`). They do not draw random numbers: the caller gives standard normal noise, so many
    numbers a row as `bound_noise_size`, `sample_noise_size` and `estimate_noise_size` say.

    A prior that is drawn in steps has a number of them, T. Its methods take another T as `steps`; None takes its own.
    Other priors have the `steps` None, and take no number.

    Register a subclass with Keras and define `get_config`, so that models with it can be saved. Make its weights with
    `add_weight(..., autocast=False)`, so that a model that computes in bfloat16 reads them in float32.

    Called as `prior(u, noise)` it gives `negative_bound`. Its weights are made when it is built, for u of one shape.

    Attributes:
        shape: `(d, d, C)`, the shape of u, once the layer is built.
    """

    shape: tuple[int, int, int]

    def build(self, u_shape: Shape, noise_shape: Shape | None = None) -> None:
        self.shape = tuple(u_shape[1:])

    def call(self, u: tf.Tensor, noise: tf.Tensor | None = None, training: bool = False) -> Terms:
        return self.negative_bound(u, noise, training)

    @property
    def fitted(self) -> bool:
        """Whether the prior has all that is not trained by gradients, but fitted or loaded."""
        return True

    # Steps

    @property
    @abc.abstractmethod
    def steps(self) -> int | None:
        """T, the number of steps where none is given; None for a prior without steps."""

    @property
    def has_steps(self) -> bool:
        """Whether u is drawn in steps, so that their number T can be chosen."""
        return self.steps is not None

    @property
    @abc.abstractmethod
    def process_name(self) -> str | None:
        """The name of the process of T steps, "ancestral" or "calibrated"; None for a prior without steps."""

    @abc.abstractmethod
    def check_steps(self, steps: int | None) -> int | None:
        """Checks a number of steps, and puts the prior's own in the place of None.

        Args:
            steps: T; None takes the prior's own.

        Returns:
            T; None for a prior without steps.

        Raises:
            ValueError: if T is below 1, or given for a prior without steps.
        """

    # Training

    @property
    @abc.abstractmethod
    def bound_noise_size(self) -> int:
        """How many normal numbers a row `negative_bound` takes."""

    @abc.abstractmethod
    def negative_bound(self, u: tf.Tensor, noise: tf.Tensor | None = None, training: bool = False) -> Terms:
        """Computes terms whose sum is an upper bound of -log r(u), or an estimate of such a bound without bias.

        Args:
            u: float32 `[N, d, d, C]`.
            noise: float32 `[N, bound_noise_size]`, standard normal.
            training: whether dropout is on.

        Returns:
            A named tuple of float32 `[N]`, in nats: `DiffusionTerms` or `ExactTerms`.
        """

    # Sampling

    @abc.abstractmethod
    def sample_noise_size(self, steps: int | None = None) -> int:
        """How many normal numbers a row `sample` takes.

        Args:
            steps: T.
        """

    @abc.abstractmethod
    def sample(self, noise: tf.Tensor, steps: int | None = None, temperature: float | tf.Tensor = 1.0) -> tf.Tensor:
        """Draws pseudoinputs.

        Args:
            noise: float32 `[N, sample_noise_size(steps)]`, standard normal.
            steps: T; None takes the prior's own.
            temperature: a number, or a tensor that broadcasts against u: the factor of the standard deviations.

        Returns:
            float32 `[N, d, d, C]`.
        """

    # Evaluation

    @abc.abstractmethod
    def estimate_noise_size(self, steps: int | None = None) -> int:
        """How many normal numbers a row `estimate` takes.

        Args:
            steps: T.
        """

    @abc.abstractmethod
    def estimate(self, u: tf.Tensor, noise: tf.Tensor | None = None, steps: int | None = None) -> PriorEstimate:
        """Estimates log r(u) of what `sample` draws.

        Args:
            u: float32 `[N, d, d, C]`.
            noise: float32 `[N, estimate_noise_size(steps)]`, standard normal.
            steps: T.

        Returns:
            Terms and a log-weight, in nats. The mean of the sum of the terms over the noise is an upper bound of
            -log r(u), and the mean of minus the log-weight is the same. The mean of exp(log-weight) is r(u).
        """
