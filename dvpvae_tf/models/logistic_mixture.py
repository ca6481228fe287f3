"""A mixture of discretized logistic distributions over pixels, as a TensorFlow Probability distribution.

It is a module of its own because TensorFlow Probability takes half a second to import.
"""

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from dvpvae_tf.models.likelihoods import PARAMETERS_PER_MIXTURE

LEVELS_PER_UNIT = 127.5  # a pixel in [-1, 1] has 256 levels, 1 / 127.5 apart
LOG_SCALE_MIN, LOG_SCALE_MAX = -8.0, 1.0
SMALLEST_QUANTILE = 2.0**-25  # in place of 0, whose logistic number is infinite
COEFFICIENTS = ((), (0,), (1, 2))  # for each channel, those that multiply the channels below it


class DiscretizedLogisticMixture(tfd.Distribution):
    """Mixture of logistic distributions over pixels in [-1, 1], each rounded to one of 256 levels.

    The three channels of a pixel share one mixture component. Within it the location of green depends
    linearly on red, and that of blue on red and green (PixelCNN++, Salimans et al. 2017, Sec. 2.2). The first
    and the last bin are open: the probabilities of the 256 levels sum to 1. All is computed in float32.

    * `log_prob` takes each value at its nearest level and gives nats per image. Its temperature is above 0.
    * `sample` returns values on the 256 levels; at temperature 0, the locations of randomly drawn components.
      `from_uniform` makes the same of given uniform numbers.
    * `mode` returns the locations of each pixel's most probable component, rounded to the levels. It ignores
      that wide components may put more mass into an open edge bin.
    * `mean` returns the locations averaged over the components, given the averages of the channels below,
      each clipped to [-1, 1]. It is not rounded, and ignores what open edge bins do to the mean.

    Args:
        raw_parameters: Tensor [..., H, W, K] of network outputs. For three channels K = 10 M: M mixture
            logits, then at index M + 3 M c + M p + m parameter p (mean, log-scale, coefficient) of channel c
            in component m. For one channel K = 3 M: logits, means, log-scales. Log-scales are clipped to
            [-8, 1]. Coefficients go through tanh: 0 is green on red, 1 blue on red, 2 blue on green.
        num_mixtures: Number of components M.
        temperature: Scalar that multiplies all scales, after the clipping; or a tensor that broadcasts against
            [..., H, W, M].
        validate_args: As in every TFP distribution.
        allow_nan_stats: As in every TFP distribution.
        name: As in every TFP distribution.

    Raises:
        ValueError: If K is neither 3 M nor 10 M.
    """

    def __init__(
        self,
        raw_parameters,
        num_mixtures=10,
        temperature=1.0,
        validate_args=False,
        allow_nan_stats=True,
        name="DiscretizedLogisticMixture",
    ):
        arguments = dict(locals())
        with tf.name_scope(name) as name:
            raw_parameters = tf.cast(raw_parameters, tf.float32)
            self._channels = _channels(raw_parameters.shape[-1], num_mixtures)
            self._logits = raw_parameters[..., :num_mixtures]
            shape = [self._channels, 2 if self._channels == 1 else 3, num_mixtures]
            shape = tf.concat([tf.shape(raw_parameters)[:-1], shape], axis=0)
            per_channel = tf.reshape(raw_parameters[..., num_mixtures:], shape)
            means, log_scales, *coefficients = tf.unstack(per_channel, axis=-2)
            scales = tf.exp(tf.clip_by_value(log_scales, LOG_SCALE_MIN, LOG_SCALE_MAX))
            # One tensor [..., H, W, M] for each channel (or coefficient).
            self._means = tf.unstack(means, axis=-2)
            self._scales = [scale * tf.cast(temperature, tf.float32) for scale in tf.unstack(scales, axis=-2)]
            self._coefficients = tf.unstack(tf.tanh(coefficients[0]), axis=-2) if coefficients else []
            self._event_size = raw_parameters.shape[-3:-1] + [self._channels]
        super().__init__(
            dtype=tf.float32,
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=validate_args,
            allow_nan_stats=allow_nan_stats,
            parameters=arguments,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {"raw_parameters": tfp.util.ParameterProperties(event_ndims=3)}

    def _event_shape(self):
        return self._event_size

    def _event_shape_tensor(self):
        return tf.concat([tf.shape(self._logits)[-3:-1], [self._channels]], axis=0)

    def _log_prob(self, value):
        return tf.reduce_sum(self.pixel_log_probs(value), axis=[-2, -1])

    def pixel_log_probs(self, value: tf.Tensor) -> tf.Tensor:
        """Computes the log-probability of each pixel, all its channels together.

        Args:
            value: pixels `[..., H, W, C]` in [-1, 1].

        Returns:
            float32 `[..., H, W]`, nats.
        """
        levels = tf.split(_nearest_level(tf.cast(value, tf.float32)), self._channels, axis=-1)
        log_prob = tf.nn.log_softmax(self._logits)
        for channel, level in enumerate(levels):
            location = self._location([lower / LEVELS_PER_UNIT for lower in levels[:channel]])
            log_prob += _log_bin_probability(level, location, self._scales[channel])
        return tf.reduce_logsumexp(log_prob, axis=-1)

    def from_uniform(self, uniform: tf.Tensor) -> tf.Tensor:
        """Turns uniform numbers into a sample.

        Args:
            uniform: float32 `[..., H, W, 1 + C]` in [0, 1): a pixel's first number chooses its component, the others
                are the quantiles of its channels.

        Returns:
            float32 `[..., H, W, C]`, on the 256 levels.
        """
        cumulative = tf.cumsum(tf.nn.softmax(self._logits), axis=-1)
        below = cumulative <= uniform[..., :1] * cumulative[..., -1:]  # never all of them
        # Floats are counted, as TensorFlow adds up int32 on the CPU alone.
        components = tf.cast(tf.reduce_sum(tf.cast(below, tf.float32), axis=-1), tf.int32)
        quantiles = tf.maximum(uniform[..., 1:], SMALLEST_QUANTILE)
        logistic = tf.math.log(quantiles) - tf.math.log1p(-quantiles)
        return self._channel_by_channel(self._one_hot(components), logistic, _to_grid)

    def _sample_n(self, n, seed=None):
        shape = tf.concat([[n], tf.shape(self._logits)[:-1], [1 + self._channels]], axis=0)
        return self.from_uniform(tfd.Uniform().sample(shape, seed))

    def _mode(self):
        components = self._one_hot(tf.argmax(self._logits, axis=-1))
        return self._channel_by_channel(components, tf.zeros(self._channels), _to_grid)

    def _mean(self):
        weights = tf.nn.softmax(self._logits)
        return self._channel_by_channel(weights, tf.zeros(self._channels), _clip)

    def _one_hot(self, components):
        return tf.one_hot(components, self._logits.shape[-1])

    def _channel_by_channel(self, weights, noise, finish):
        """Pixels from component weights [..., M] and noise [..., C], each channel given those below it."""
        values: list[tf.Tensor] = []
        for channel in range(self._channels):
            value = self._location(values) + noise[..., channel, tf.newaxis] * self._scales[channel]
            values.append(finish(tf.reduce_sum(weights * value, axis=-1, keepdims=True)))
        return tf.concat(values, axis=-1)

    def _location(self, lower_channels):
        """Location [..., M] of the next channel's components, given all channels [..., 1] below it."""
        location = self._means[len(lower_channels)]
        for index, value in zip(COEFFICIENTS[len(lower_channels)], lower_channels, strict=True):
            location += self._coefficients[index] * value
        return location


def _channels(num_parameters, num_mixtures):
    for channels, per_mixture in PARAMETERS_PER_MIXTURE.items():
        if num_parameters == per_mixture * num_mixtures:
            return channels
    raise ValueError(
        f"{num_mixtures} mixture components need {3 * num_mixtures} parameters a pixel for grey images or "
        f"{10 * num_mixtures} for colour images, not {num_parameters}."
    )


def _clip(value):
    return tf.clip_by_value(value, -1.0, 1.0)


def _nearest_level(value):
    """One of -127.5, -126.5, ..., 127.5: exact in float32, and so are the edges between the levels."""
    return tf.round(LEVELS_PER_UNIT * (_clip(value) + 1.0)) - LEVELS_PER_UNIT


def _to_grid(value):
    return _nearest_level(value) / LEVELS_PER_UNIT


def _log_bin_probability(level, location, scale):
    """log(sigmoid(upper) - sigmoid(lower)), where upper is infinite in the last bin, -lower in the first.

    The difference is sigmoid(upper) sigmoid(-lower) (1 - exp(lower - upper)), and upper - lower is 1 / scale
    in units of a level. Each logarithm and its gradient are finite, also where an edge bin leaves them out.
    """
    inverse_scale = 1.0 / (LEVELS_PER_UNIT * scale)
    upper = (level + 0.5 - LEVELS_PER_UNIT * location) * inverse_scale
    lower = (level - 0.5 - LEVELS_PER_UNIT * location) * inverse_scale
    first, last = level < -127.0, level > 127.0
    return (
        tf.where(last, 0.0, tf.math.log_sigmoid(upper))
        + tf.where(first, 0.0, tf.math.log_sigmoid(-lower))
        + tf.where(first | last, 0.0, tfp.math.log1mexp(inverse_scale))
    )
