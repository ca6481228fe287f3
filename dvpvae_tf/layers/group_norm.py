"""Group normalisation that a time can modulate."""

import keras


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class GroupNorm(keras.layers.GroupNormalization):
    """Keras's layer, faster: several times on CPUs; and its output may be scaled and shifted.

    Called as `norm(inputs, scale=None, shift=None)`: `[N, h, w, C]` and twice `[N, C]`, both or neither, to
    `[N, h, w, C]`. Moments are taken over the positions of each channel first and then over the few numbers of a group,
    and all that follows is one factor and one offset a row and channel, in float32. The variance is the mean square
    minus the squared mean: where a mean is a hundred times the deviation, the result is good to a few thousandths.

    Args:
        groups: int, divides C.
        epsilon: float, added to the variance.
        **kwargs: passed to `keras.layers.Layer`.
    """

    def __init__(self, groups, epsilon=1e-5, **kwargs):
        super().__init__(groups, epsilon=epsilon, **kwargs)

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
        return keras.ops.cast(values * factor[:, None, None] + offset[:, None, None], self.compute_dtype)

    def _over_groups(self, values):
        """The mean over each group of channels, `[N, C]` to the same."""
        channels = values.shape[-1]
        if channels == self.groups:
            return values
        grouped = keras.ops.reshape(values, (-1, self.groups, channels // self.groups))
        return keras.ops.repeat(keras.ops.mean(grouped, axis=2), channels // self.groups, axis=1)

    def get_config(self):
        config = super().get_config()
        return {key: config[key] for key in ("name", "trainable", "dtype", "groups", "epsilon")}
