"""The diffusion-based prior over pseudoinputs (Section 3.4, Appendix A)."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf.backend.keras_internals import adding_weights
from dvpvae_tf.layers.shape import Shape
from dvpvae_tf.layers.unet import UNet
from dvpvae_tf.noise import to_uniform
from dvpvae_tf.priors.calibration import Calibration, calibrate
from dvpvae_tf.priors.covariances import kind_of
from dvpvae_tf.priors.noise_schedule import LinearNoiseSchedule, over_elements
from dvpvae_tf.priors.prior import Prior
from dvpvae_tf.priors.process import (
    GRID_TIMES,
    MOST_CALIBRATED_STEPS,
    AncestralProcess,
    CalibratedProcess,
    ReverseProcess,
    check_calibrated_steps,
)
from dvpvae_tf.priors.terms import DiffusionTerms, PriorEstimate

PAPER_STEPS = 50  # T of the ancestral process in Table 7


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class DiffusionPrior(Prior):
    """A variational diffusion model as the prior over pseudoinputs (Section 3.4, Appendix A).

    Called as `prior(u, noise)` it gives the continuous-time bound. All tensors are float32; the UNet computes in the
    layer's compute dtype.

    Args:
        channels: width of the UNet, divisible by 16.
        blocks: residual blocks of the UNet before its middle.
        dropout: dropout rate of the UNet.
        gamma_min: minus the log signal-to-noise ratio at t = 0.
        gamma_max: minus the log signal-to-noise ratio at t = 1.
        steps: T of the ancestral process, which it takes until it is calibrated.
        clip: whether predictions of u are clipped to [-1, 1], as they may be where every f(x) lies there
            (`Pseudoinput.bounded`): u leaves it by the noise of r(u|x) alone.
        calibrated_steps: T of the calibrated process; None where `calibrate` has not been called.
        **kwargs: passed to `keras.layers.Layer`.

    Raises:
        ValueError: if a number of steps is below 1, `calibrated_steps` is above 100, `channels` is not divisible by 16,
            or `gamma_min` is not below `gamma_max`.
    """

    def __init__(
        self,
        channels: int = 16,
        blocks: int = 2,
        dropout: float = 0.0,
        gamma_min: float = -6.0,
        gamma_max: float = 7.0,
        steps: int = PAPER_STEPS,
        clip: bool = True,
        calibrated_steps: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(autocast=False, **kwargs)
        if steps < 1:
            raise ValueError(f"A diffusion prior takes at least 1 step, got {steps}.")
        check_calibrated_steps(calibrated_steps)
        self.schedule = LinearNoiseSchedule(gamma_min, gamma_max)
        self.ancestral_steps = steps
        self.clip = clip
        self.calibrated_steps = calibrated_steps
        self.unet = UNet(channels, blocks, dropout, dtype=self.dtype_policy, name="unet")

    def build(self, u_shape: Shape, noise_shape: Shape | None = None) -> None:
        super().build(u_shape)
        self.build_network(tuple(u_shape))
        if self.calibrated_steps is not None:
            self._add_tables()

    def build_network(self, u_shape: Shape) -> None:
        """Makes the weights of the network that predicts the noise.

        Args:
            u_shape: `(None, d, d, C)`.
        """
        self.unet.build(u_shape, (u_shape[0],))

    def _add_tables(self) -> None:
        size = math.prod(self.shape)
        shape = (len(GRID_TIMES), kind_of(size).width(size))
        self.covariances = self.add_weight(
            shape=shape, initializer="zeros", trainable=False, autocast=False, name="covariances"
        )
        shape = (MOST_CALIBRATED_STEPS, len(GRID_TIMES))
        self.paths = self.add_weight(shape=shape, initializer="zeros", dtype="uint8", trainable=False, name="paths")

    @property
    def fitted(self) -> bool:
        """Whether a calibrated prior has the tables of its process."""
        return self.calibrated_steps is None or bool(tf.reduce_any(self.covariances.value != 0.0))

    @property
    def steps(self) -> int:
        """T, the number of steps where none is given."""
        return self.ancestral_steps if self.calibrated_steps is None else self.calibrated_steps

    @property
    def process_name(self) -> str:
        """The name of the process that draws u and defines r(u): "ancestral", or "calibrated"."""
        return (AncestralProcess if self.calibrated_steps is None else CalibratedProcess).name

    def predictions(self, steps: int | None = None) -> int:
        """Counts the evaluations of the network for one draw: a calibrated process takes one more, at y_0.

        Args:
            steps: T; None takes the prior's own.

        Returns:
            How many.
        """
        return self.check_steps(steps) + (self.calibrated_steps is not None)

    def ancestral(self) -> "DiffusionPrior":
        """Copies the prior without its calibration.

        Returns:
            A prior with the same network, which takes the paper's ancestral process.
        """
        copy = type(self).from_config(self.get_config() | {"calibrated_steps": None})
        copy.build((None, *self.shape))
        copy.unet.set_weights(self.unet.get_weights())
        return copy

    def process(self, steps: int | None = None) -> ReverseProcess:
        """Gives the process that draws u and defines r(u): the calibrated one, or before `calibrate` the ancestral one.

        Args:
            steps: T; None takes the prior's own.

        Returns:
            The process of T steps.

        Raises:
            ValueError: if T is below 1, or above 100 where the prior is calibrated.
        """
        arguments = self.schedule, self.predict_u, self.shape, self.check_steps(steps)
        if self.calibrated_steps is None:
            return AncestralProcess(*arguments)
        return CalibratedProcess(*arguments, covariances=self.covariances.value, paths=self.paths.value)

    def calibrate(
        self, u: np.ndarray, validation_u: np.ndarray, steps: int | None = None, seed: int = 0, verbose: int = 0
    ) -> Calibration | None:
        """Calibrates the process: finds the covariances and times that suit the trained network best.

        It changes this prior: from then on `sample` and `estimate` take the calibrated process.

        Args:
            u: float32 `[N, d, d, C]`, draws of r(u|x) of training images; 4,000 are enough for MNIST.
            validation_u: the same of validation images.
            steps: T from now on, at most 100; None takes the smallest that is within 0.2 nats of T = 50 on
                `validation_u`.
            seed: of the noise.
            verbose: 1 shows a progress bar, 0 nothing.

        Returns:
            What was found. None where the errors of the network are not finite or have no positive definite
            covariance: then nothing has changed.

        Raises:
            UserError: if T is no whole number from 1 to 100.
        """
        found = calibrate(self.schedule, self.predict_u, u, validation_u, steps, seed, verbose)
        if found is None:
            return None
        if self.calibrated_steps is None:
            with adding_weights(self):
                self._add_tables()
        self.calibrated_steps = found.steps
        self.covariances.assign(found.covariances)
        self.paths.assign(found.paths)
        return found

    @property
    def bound_noise_size(self) -> int:
        """1 + P, P being the elements of u: for a time and the noise of y_t."""
        return 1 + math.prod(self.shape)

    def check_steps(self, steps: int | None) -> int:
        """Checks a number of steps, and puts the prior's own in the place of None.

        Args:
            steps: T; None takes the prior's own.

        Returns:
            T.

        Raises:
            ValueError: if it is below 1, or above 100 where the process is calibrated.
        """
        if steps is not None and steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}.")
        if self.calibrated_steps is not None:
            check_calibrated_steps(steps)
        return int(self.steps if steps is None else steps)

    def sample_noise_size(self, steps: int | None = None) -> int:
        return self.process(steps).sample_noise_size

    def negative_bound(self, u: tf.Tensor, noise: tf.Tensor | None = None, training: bool = False) -> DiffusionTerms:
        """Estimates -L_vlb(u) in continuous time from one time a row (Eq. 16, 31).

        Args:
            u: float32 `[N, d, d, C]`.
            noise: float32 `[N, bound_noise_size]`, standard normal.
            training: whether dropout is on.

        Returns:
            `DiffusionTerms`, nats.
        """
        if noise is None:
            raise ValueError("The bound of a diffusion prior takes noise.")
        time = to_uniform(noise[:, 0])
        loss = self.diffusion_loss(u, time, tf.reshape(noise[:, 1:], tf.shape(u)), training)
        return self._terms(u, loss)

    def estimate_noise_size(self, steps: int | None = None) -> int:
        return self.process(steps).estimate_noise_size

    def estimate(self, u: tf.Tensor, noise: tf.Tensor | None = None, steps: int | None = None) -> PriorEstimate:
        """Estimates log r(u) of the process that `sample` runs, from one trajectory a row (Eq. 31).

        Args:
            u: float32 `[N, d, d, C]`.
            noise: float32 `[N, estimate_noise_size(steps)]`, standard normal.
            steps: T; None takes the prior's own.

        Returns:
            `DiffusionTerms` and the log-weight, nats.
        """
        return self.process(steps).estimate(u, noise)

    def published_terms(self, u: tf.Tensor, noise: tf.Tensor, steps: int | None = None) -> DiffusionTerms:
        """Computes the terms of -log r(u) in `published`: too low, so they give no bound.

        Its diffusion term is the mean of the continuous-time integrand at the right ends of T intervals, where the
        integrand is smaller than within them.

        Args:
            u: float32 `[N, d, d, C]`.
            noise: float32 `[N, T P]`, standard normal, P being the elements of u.
            steps: T; None takes the prior's own.

        Returns:
            `DiffusionTerms`, nats.
        """
        steps = self.check_steps(steps)
        rows = tf.shape(u)[0]
        times = tf.tile(tf.constant(np.arange(1, steps + 1) / steps, tf.float32), [rows])
        losses = self.diffusion_loss(tf.repeat(u, steps, axis=0), times, tf.reshape(noise, [-1, *self.shape]))
        loss = tf.reduce_mean(tf.reshape(losses, [-1, steps]), axis=1)
        return self._terms(u, loss)

    def _terms(self, u: tf.Tensor, loss: tf.Tensor) -> DiffusionTerms:
        reconstruction = tf.zeros_like(loss) + self.schedule.reconstruction(math.prod(self.shape))
        return DiffusionTerms(loss, reconstruction, self.schedule.prior_kl(u))

    def diffusion_loss(self, u: tf.Tensor, time: tf.Tensor, noise: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Computes the continuous-time integrand 1/2 gamma'(t) |eps - eps_hat(y_t, t)|^2.

        Args:
            u: float32 `[N, d, d, C]`.
            time: float32 `[N]` in [0, 1].
            noise: float32, like `u`: eps.
            training: whether dropout is on.

        Returns:
            float32 `[N]`, nats.
        """
        y = self.schedule.diffuse(u, over_elements(time), noise)
        error = tf.math.squared_difference(self.predict_noise(y, time, training), noise)
        return 0.5 * self.schedule.slope * tf.reduce_sum(error, axis=[1, 2, 3])

    def predict_noise(self, y: tf.Tensor, time: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Predicts the noise in y_t with the UNet.

        Args:
            y: float32 `[N, d, d, C]`, y_t.
            time: float32 `[N]` in [0, 1], or `[1]` for all rows.
            training: whether dropout is on.

        Returns:
            float32, like `y`.
        """
        return tf.cast(self.unet(y, time, training=training), tf.float32)

    def predict_u(self, y: tf.Tensor, time: tf.Tensor) -> tf.Tensor:
        """Computes the clean pseudoinput that the predicted noise implies, clipped where `clip` is set.

        Args:
            y: float32 `[N, d, d, C]`, y_t.
            time: float32 `[N]` in [0, 1], or `[1]` for all rows.

        Returns:
            float32, like `y`.
        """
        noise = self.predict_noise(y, time)
        time = over_elements(time)
        u = (y - self.schedule.sigma(time) * noise) / self.schedule.alpha(time)
        return tf.clip_by_value(u, -1.0, 1.0) if self.clip else u

    def transition(self, y: tf.Tensor, source: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes mean and standard deviation of the ancestral step r(y_s|y_t), s < t (Eq. 26 to 29).

        A calibrated process has the same mean at its own times, and another covariance.

        Args:
            y: float32 `[N, d, d, C]`, y_t.
            source: float32 `[N]`, t, or `[1]` for all rows.
            target: float32, like `source`: s.

        Returns:
            The mean, like `y`, and the standard deviation, `[N, 1, 1, 1]` or `[1, 1, 1, 1]`.
        """
        return self.schedule.posterior(y, self.predict_u(y, source), over_elements(source), over_elements(target))

    def sample(self, noise: tf.Tensor, steps: int | None = None, temperature: float | tf.Tensor = 1.0) -> tf.Tensor:
        """Draws pseudoinputs: y_1 from N(0, I), T steps, then u (Eq. 29, 30).

        Args:
            noise: float32 `[N, sample_noise_size(steps)]`, standard normal.
            steps: T; None takes the prior's own.
            temperature: a number, or a tensor that broadcasts against u: the factor of the standard deviation of all
                noise but that of y_1.

        Returns:
            float32 `[N, d, d, C]`.
        """
        return self.process(steps).sample(noise, temperature)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "channels": self.unet.channels,
            "blocks": self.unet.blocks,
            "dropout": self.unet.dropout,
            "gamma_min": self.schedule.gamma_min,
            "gamma_max": self.schedule.gamma_max,
            "steps": self.ancestral_steps,
            "clip": self.clip,
            "calibrated_steps": self.calibrated_steps,
        }
