"""The noise schedule of the diffusion prior (Appendix A; Table 7's "log SNR min / max")."""

import math
from typing import Any

import tensorflow as tf

from dvpvae_tf.layers.gaussian import LOG_2_PI


def over_elements(time: tf.Tensor) -> tf.Tensor:
    """Gives times a shape that broadcasts over the elements of pseudoinputs.

    Args:
        time: float32 `[N]`, or `[1]` for all rows.

    Returns:
        float32 `[N, 1, 1, 1]` or `[1, 1, 1, 1]`.
    """
    return tf.reshape(time, [-1, 1, 1, 1])


class LinearNoiseSchedule:
    """The linear schedule gamma(t) = -log SNR(t) on t in [0, 1], with alpha^2 + sigma^2 = 1 (Eq. 25).

    Args:
        gamma_min: gamma(0), minus the log signal-to-noise ratio of almost clean pseudoinputs.
        gamma_max: gamma(1), the same of almost pure noise.

    Raises:
        ValueError: if `gamma_min` is not below `gamma_max`.
    """

    def __init__(self, gamma_min: float = -6.0, gamma_max: float = 7.0):
        if not gamma_min < gamma_max:
            raise ValueError(f"gamma_min must be below gamma_max, got {gamma_min} and {gamma_max}.")
        self.gamma_min = float(gamma_min)
        self.gamma_max = float(gamma_max)

    @property
    def slope(self) -> float:
        """gamma'(t), the same at every t."""
        return self.gamma_max - self.gamma_min

    def gamma(self, time: Any) -> Any:
        """Computes minus the log signal-to-noise ratio (Eq. 25).

        Args:
            time: t, a number, an array or a tensor.

        Returns:
            gamma(t), of the same type and shape.
        """
        return self.gamma_min + self.slope * time

    def alpha(self, time: tf.Tensor) -> tf.Tensor:
        """Computes alpha_t, the factor of the clean pseudoinput (Eq. 25).

        Args:
            time: t, float32 of any shape.

        Returns:
            float32 of that shape.
        """
        return tf.sqrt(tf.sigmoid(-self.gamma(time)))

    def sigma(self, time: tf.Tensor) -> tf.Tensor:
        """Computes sigma_t, the standard deviation of the noise (Eq. 25).

        Args:
            time: t, float32 of any shape.

        Returns:
            float32 of that shape.
        """
        return tf.sqrt(tf.sigmoid(self.gamma(time)))

    def diffuse(self, u: tf.Tensor, time: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Draws y_t from q(y_t|u) with the given noise (Eq. 25).

        Args:
            u: float32 `[N, d, d, C]`, clean pseudoinputs.
            time: float32 that broadcasts against `u`.
            noise: float32, standard normal, shaped like `u`.

        Returns:
            float32, shaped like `u`.
        """
        return self.alpha(time) * u + self.sigma(time) * noise

    def trajectory(self, noise: tf.Tensor, gamma: tf.Tensor) -> tf.Tensor:
        """Draws the noise of a whole backward trajectory q(y_1|u) q(y_s|y_t, u) ... (Eq. 26 to 28).

        Eq. 27 and 28 say of n_t, the noise in y_t = alpha_t u + sigma_t n_t, that n_s = sqrt(1 - c) n_t + sqrt(c) e
        with fresh e and c = 1 - SNR(t) / SNR(s): all n_t are one linear map of the fresh noise.

        Args:
            noise: float32 `[N, T + 1, d, d, C]`, standard normal: for y_1, then for each step.
            gamma: float64 `[T + 1]`, minus the log signal-to-noise ratio at the times of the states, from 1 to 0.

        Returns:
            float32, like `noise`: n_t at each time.
        """
        _, times, *shape = noise.shape
        gamma = tf.convert_to_tensor(gamma, tf.float64)
        fresh = tf.sqrt(tf.concat([[1.0], -tf.math.expm1(gamma[1:] - gamma[:-1])], axis=0))
        kept = tf.exp(0.5 * tf.minimum(gamma[:, tf.newaxis] - gamma, 0.0))
        mixing = tf.cast(tf.linalg.band_part(kept * fresh, -1, 0), tf.float32)
        flat = tf.reshape(noise, [-1, times, math.prod(shape)])
        return tf.reshape(mixing @ flat, [-1, times, *shape])

    def prior_kl(self, u: tf.Tensor) -> tf.Tensor:
        """Computes KL(q(y_1|u) || N(0, I)), the term L_1 of Eq. 31.

        Args:
            u: float32 `[N, d, d, C]`.

        Returns:
            float32 `[N]`, nats.
        """
        alpha_squared = 1.0 / (1.0 + math.exp(self.gamma_max))
        # sigma^2 - 1 - log sigma^2 is a difference of nearly equal numbers: in double precision.
        constant = math.log1p(math.exp(-self.gamma_max)) - alpha_squared
        return 0.5 * tf.reduce_sum(alpha_squared * tf.square(u) + constant, axis=[1, 2, 3])

    def reconstruction(self, dimensions: int) -> float:
        """Computes -E log r(u|y_0) of Eq. 30, the same for every u.

        Args:
            dimensions: P, the number of elements of u.

        Returns:
            Nats.
        """
        return 0.5 * dimensions * (1.0 + LOG_2_PI + self.gamma_min)

    def posterior(
        self, y: tf.Tensor, u: tf.Tensor, source: tf.Tensor, target: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the mean and the standard deviation of q(y_s|y_t, u), s < t (Eq. 26 to 28).

        With c = 1 - SNR(t) / SNR(s) the mean is (alpha_s / alpha_t)(1 - c) y_t + c alpha_s u and the variance c
        sigma_s^2, which are Eq. 27 and 28 without their differences of nearly equal numbers.

        Args:
            y: float32 `[N, d, d, C]`, y_t.
            u: float32, like `y`, the clean pseudoinput or a prediction of it.
            source: float32 that broadcasts against `y`, the time t.
            target: float32 that broadcasts against `y`, the earlier time s.

        Returns:
            The mean, like `y`, and the standard deviation, which broadcasts against it.
        """
        c = -tf.math.expm1(self.gamma(target) - self.gamma(source))
        alpha_s = self.alpha(target)
        mean = alpha_s / self.alpha(source) * (1.0 - c) * y + c * alpha_s * u
        return mean, tf.sqrt(c) * self.sigma(target)
