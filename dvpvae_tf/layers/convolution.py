"""The convolution of both paths, and how every convolution and dense layer of the model starts."""

import keras
import tensorflow as tf


def uniform_initializer(gain=1.0):
    """Gives uniform(-gain / sqrt(fan_in), gain / sqrt(fan_in)), a new object each time.

    Args:
        gain: float, at least 0; 0 gives zeros.

    Returns:
        A `keras.initializers.Initializer`. An unseeded Keras initializer gives the same numbers at every use: take
        one a weight.
    """
    if gain == 0:
        return keras.initializers.Zeros()
    return keras.initializers.VarianceScaling(gain**2 / 3, "fan_in", "uniform")


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class Convolution(keras.layers.Conv2D):
    """A "same" convolution, of its inputs or of their SiLU, whose gradient is fast and remembers little.

    Maps `[N, h, w, input channels]` to `[N, h, w, channels]` in the compute dtype. Its gradient is that of
    `keras.layers.Conv2D` after `keras.ops.silu`, but

    * the SiLU is computed again rather than kept, which was half of what training held in memory;
    * the SiLU's derivative is one pass over the numbers instead of six;
    * the bias has a sum of its own, in float32: TensorFlow's stops at 256 in bfloat16, and oneDNN's, one with the
      gradient of the kernel, takes in float32 twice as long as the two.

    Args:
        channels: int, output channels.
        size: int, side of the kernel.
        gain: float, factor of the starting weights, see `uniform_initializer`; biases start at zero.
        silu: bool, whether the SiLU of the inputs is taken first.
        **kwargs: passed to `keras.layers.Layer`.
    """

    def __init__(self, channels, size, gain=1.0, silu=False, **kwargs):
        super().__init__(channels, size, padding="same", kernel_initializer=uniform_initializer(gain), **kwargs)
        self.gain = gain
        self.silu = silu

    def call(self, inputs):
        convolve = _convolve_silu if self.silu else _convolve
        return convolve(inputs, tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias))

    def get_config(self):
        config = super().get_config()
        size, _ = config["kernel_size"]
        kept = {key: config[key] for key in ("name", "trainable", "dtype")}
        return {**kept, "channels": self.filters, "size": size, "gain": self.gain, "silu": self.silu}


@tf.custom_gradient
def _convolve(inputs, kernel, bias):
    def gradient(upstream):
        return _convolution_gradients(inputs, kernel, upstream)

    return tf.nn.bias_add(tf.nn.conv2d(inputs, kernel, 1, "SAME"), bias), gradient


@tf.custom_gradient
def _convolve_silu(inputs, kernel, bias):
    def gradient(upstream):
        with tf.control_dependencies([upstream]):  # else it would be computed long before it is needed, and kept
            activated = _silu_again(inputs)
        of_activated, *of_weights = _convolution_gradients(activated, kernel, upstream)
        return (_silu_gradient(inputs, of_activated), *of_weights)

    return tf.nn.bias_add(tf.nn.conv2d(tf.nn.silu(inputs), kernel, 1, "SAME"), bias), gradient


def _convolution_gradients(inputs, kernel, upstream):
    """Those of the inputs, the kernel and the bias."""
    options = {"out_backprop": upstream, "strides": [1, 1, 1, 1], "padding": "SAME"}
    of_inputs = tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(inputs), filter=kernel, **options)
    of_kernel = tf.raw_ops.Conv2DBackpropFilter(input=inputs, filter_sizes=tf.shape(kernel), **options)
    of_bias = tf.reduce_sum(tf.cast(upstream, tf.float32), axis=[0, 1, 2])
    return of_inputs, of_kernel, tf.cast(of_bias, upstream.dtype)


@tf.function(jit_compile=True)
def _silu_again(inputs):
    values = tf.cast(inputs, tf.float32)
    return tf.cast(values * tf.sigmoid(values), inputs.dtype)


@tf.function(jit_compile=True)
def _silu_gradient(inputs, upstream):
    values = tf.cast(inputs, tf.float32)
    sigmoid = tf.sigmoid(values)
    gradient = sigmoid * (1.0 + values * (1.0 - sigmoid))
    return tf.cast(tf.cast(upstream, tf.float32) * gradient, inputs.dtype)
