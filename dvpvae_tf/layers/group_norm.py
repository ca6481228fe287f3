"""Group normalisation whose scale and shift may depend on the diffusion time."""

from typing import Any

import keras
import tensorflow as tf

from dvpvae_tf.layers.shape import Shape


@keras.saving.register_keras_serializable(package="dvpvae_tf", name="GroupNorm")
class AdaptiveGroupNorm(keras.layers.GroupNormalization):
    """Adaptive group normalisation: the output may be multiplied by 1 + scale and shifted, for each row and channel.

    Called as `norm(inputs, scale=None, shift=None)`: inputs `[N, h, w, C]`, scale and shift `[N, C]`, both or neither,
    to `[N, h, w, C]` in the compute dtype.

    On CPUs it is several times faster than `keras.layers.GroupNormalization`: it averages over the positions of each
    channel first, then over the channels of a group, and applies one factor and one offset, all in float32. The
    variance is the mean square minus the squared mean. Where the mean is a hundred times the standard deviation, the
    result is accurate to a few thousandths.

    Args:
        groups: number of groups, divides C.
        epsilon: added to the variance.
        **kwargs: passed to `keras.layers.Layer`.
    """

    def __init__(self, groups: int, epsilon: float = 1e-5, **kwargs: Any):
        super().__init__(groups, epsilon=epsilon, **kwargs)

    def build(self, inputs_shape: Shape, scale_shape: Shape | None = None, shift_shape: Shape | None = None) -> None:
        super().build(inputs_shape)

    def call(self, inputs: tf.Tensor, scale: tf.Tensor | None = None, shift: tf.Tensor | None = None) -> tf.Tensor:
        values = keras.ops.cast(inputs, "float32")
        mean = self._over_groups(keras.ops.mean(values, axis=(1, 2)))
        mean_square = self._over_groups(keras.ops.mean(keras.ops.square(values), axis=(1, 2)))
        gamma, beta = (keras.ops.cast(weight, "float32") for weight in (self.gamma, self.beta))
        factor = gamma * keras.ops.rsqrt(keras.ops.maximum(mean_square - keras.ops.square(mean), 0.0) + self.epsilon)
        offset = beta - mean * factor
        if scale is not None:
            scale = 1.0 + keras.ops.cast(scale, "float32")
            factor, offset = factor * scale, offset * scale + keras.ops.cast(shift, "float32")
        return keras.ops.cast(values * factor[:, None, None] + offset[:, None, None], self.compute_dtype)

    def _over_groups(self, values: tf.Tensor) -> tf.Tensor:
        """Replaces each channel by the mean of its group, `[N, C]` to `[N, C]`."""
        channels = values.shape[-1]
        if channels == self.groups:
            return values
        grouped = keras.ops.reshape(values, (-1, self.groups, channels // self.groups))
        means = keras.ops.mean(grouped, axis=2, keepdims=True)
        # `repeat` would compute shapes, on a GPU with a copy to the host.
        return keras.ops.reshape(means * keras.ops.ones(grouped.shape[2]), (-1, channels))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {key: config[key] for key in ("name", "trainable", "dtype", "groups", "epsilon")}
