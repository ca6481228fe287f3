"""Group normalisation that a time can modulate."""

import keras


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class GroupNorm(keras.layers.GroupNormalization):
    """Keras's layer with two changes: it is several times faster on CPUs, and its output may be scaled and shifted.

    Called as `norm(inputs, scale=None, shift=None)`: `[N, h, w, C]` and twice `[N, C]` to `[N, h, w, C]`. Moments are
    taken over the positions of each channel first and then over the few numbers of a group, in float32, and all that
    follows is one factor and one offset a row and channel.

    Args:
        groups: int, divides C.
        epsilon: float, added to the variance.
        **kwargs: passed to `keras.layers.GroupNormalization`.
    """

    def build(self, inputs_shape, scale_shape=None, shift_shape=None):
        super().build(inputs_shape)

    def call(self, inputs, scale=None, shift=None):
        values = keras.ops.cast(inputs, "float32")
        mean = self._over_groups(keras.ops.mean(values, axis=(1, 2)))
        mean_square = self._over_groups(keras.ops.mean(keras.ops.square(values), axis=(1, 2)))
        gamma, beta = (keras.ops.cast(weight, "float32") for weight in (self.gamma, self.beta))
        factor = gamma * keras.ops.rsqrt(keras.ops.maximum(mean_square - keras.ops.square(mean), 0.0) + self.epsilon)
        offset = beta - mean * factor
        if scale is not None:
            scale = 1.0 + keras.ops.cast(scale, "float32")
            factor, offset = factor * scale, offset * scale + keras.ops.cast(shift, "float32")
        factor, offset = (keras.ops.cast(value[:, None, None], self.compute_dtype) for value in (factor, offset))
        return keras.ops.cast(inputs, self.compute_dtype) * factor + offset

    def _over_groups(self, values):
        """The mean over each group of channels, `[N, C]` to the same."""
        channels = values.shape[-1]
        if channels == self.groups:
            return values
        grouped = keras.ops.reshape(values, (-1, self.groups, channels // self.groups))
        return keras.ops.repeat(keras.ops.mean(grouped, axis=2), channels // self.groups, axis=1)
