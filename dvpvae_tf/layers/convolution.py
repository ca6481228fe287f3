"""The convolution of the model, and the initializer of its convolutions and dense layers."""

from typing import Any

import keras
import tensorflow as tf


def uniform_initializer(gain: float = 1.0) -> keras.initializers.Initializer:
    """Makes an initializer of U(-gain / sqrt(fan_in), gain / sqrt(fan_in)).

    Args:
        gain: at least 0; 0 gives zeros.

    Returns:
        A new initializer. Make one for each weight: an unseeded Keras initializer gives the same numbers at every use.
    """
    if gain == 0:
        return keras.initializers.Zeros()
    return keras.initializers.VarianceScaling(gain**2 / 3, "fan_in", "uniform")


@keras.saving.register_keras_serializable(package="dvpvae_tf", name="Convolution")
class MemoryEfficientConv2D(keras.layers.Conv2D):
    """A convolution with "same" padding, after an optional SiLU, whose gradient is fast and needs little memory.

    Maps `[N, h, w, input channels]` to `[N, h, w, channels]` in the compute dtype. Outputs and gradients are those of
    `keras.layers.Conv2D` after `keras.ops.silu`. It differs in how the gradient is computed:

    * The SiLU is recomputed instead of stored. Stored, it was half of the memory of training.
    * The derivative of the SiLU takes one pass over the data instead of six.
    * The gradient of the bias is summed separately, in float32. TensorFlow's sum stops at 256 in bfloat16, and oneDNN's
      joint gradient of kernel and bias takes twice as long in float32 as the two apart.

    Args:
        channels: output channels.
        size: side of the kernel.
        gain: factor of the initial weights, see `uniform_initializer`; biases start at zero.
        silu: whether the SiLU of the inputs is taken first.
        **kwargs: passed to `keras.layers.Layer`.
    """

    def __init__(self, channels: int, size: int, gain: float = 1.0, silu: bool = False, **kwargs: Any):
        initializer = uniform_initializer(gain)
        super().__init__(
            channels, size, padding="same", data_format="channels_last", kernel_initializer=initializer, **kwargs
        )
        self.gain = gain
        self.silu = silu

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        convolve = _convolve_silu if self.silu else _convolve
        outputs = convolve(inputs, tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias))
        return _with_channels(outputs, inputs, self.filters)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        size, _ = config["kernel_size"]
        kept = {key: config[key] for key in ("name", "trainable", "dtype")}
        return {**kept, "channels": self.filters, "size": size, "gain": self.gain, "silu": self.silu}


# In a saved model, Keras stores the weights of a list of layers under the snake case of their class's `__name__`, such
# as `convolutions/convolution_1`; the registered name plays no part. Saved models have this name.
MemoryEfficientConv2D.__name__ = "Convolution"


def _with_channels(outputs, inputs, channels):
    """Gives the outputs of a convolution of no rows their own channels.

    On CPUs with AVX-512, TensorFlow's convolution leaves them those of the inputs.
    """
    return tf.reshape(outputs, [-1, *inputs.shape[1:3], channels])


def _convolve_with_bias(inputs, kernel, bias):
    """Convolves and adds the bias, which TensorFlow does in one operation where nothing lies between the two."""
    outputs = tf.nn.conv2d(inputs, kernel, 1, "SAME")
    if inputs.shape[0] == 0:
        outputs = _with_channels(outputs, inputs, kernel.shape[-1])
    return tf.nn.bias_add(outputs, bias)


@tf.custom_gradient
def _convolve(inputs, kernel, bias):
    def gradient(upstream):
        return _convolution_gradients(inputs, kernel, upstream)

    return _convolve_with_bias(inputs, kernel, bias), gradient


@tf.custom_gradient
def _convolve_silu(inputs, kernel, bias):
    def gradient(upstream):
        with tf.control_dependencies([upstream]):  # else it would be computed long before it is needed, and kept
            activated = _silu_again(inputs)
        of_activated, *of_weights = _convolution_gradients(activated, kernel, upstream)
        return (_silu_gradient(inputs, of_activated), *of_weights)

    return _convolve_with_bias(tf.nn.silu(inputs), kernel, bias), gradient


def _convolution_gradients(inputs, kernel, upstream):
    """The gradients of the inputs, the kernel and the bias."""
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
