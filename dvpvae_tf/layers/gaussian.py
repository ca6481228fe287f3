"""The density of Gaussians with independent elements."""

import math

import keras
import tensorflow as tf

LOG_2_PI = math.log(2.0 * math.pi)


def log_density(value: tf.Tensor, mean: tf.Tensor, log_var: tf.Tensor) -> tf.Tensor:
    """Computes the log density of N(mean, exp(log_var)) at each element.

    Args:
        value: float32.
        mean: float32; it broadcasts against `value`, as `log_var` does.
        log_var: float32.

    Returns:
        float32, like `value`, nats.
    """
    return -0.5 * (keras.ops.square(value - mean) * keras.ops.exp(-log_var) + log_var + LOG_2_PI)


def standard_log_density(value: tf.Tensor) -> tf.Tensor:
    """Computes the log density of N(0, 1) at each element.

    Args:
        value: float32.

    Returns:
        float32, like `value`, nats.
    """
    return -0.5 * (keras.ops.square(value) + LOG_2_PI)
