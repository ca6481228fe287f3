"""How every convolution and dense layer of the model starts."""

import keras


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


def convolution(channels, size, gain=1.0, **kwargs):
    """Makes a "same" convolution that starts as `uniform_initializer`, its biases at zero.

    Args:
        channels: int, output channels.
        size: int, side of the kernel.
        gain: float, factor of the starting weights.
        **kwargs: passed to `keras.layers.Conv2D`.

    Returns:
        A `keras.layers.Conv2D`.
    """
    initializer = uniform_initializer(gain)
    return keras.layers.Conv2D(channels, size, padding="same", kernel_initializer=initializer, **kwargs)
