"""The residual block of both paths (Figure 2c)."""

import keras

from dvpvae_tf.layers.convolution import MemoryEfficientConv2D


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class ResBlock(keras.layers.Layer):
    """A residual bottleneck: 1x1, 3x3, 3x3 and 1x1 convolutions with SiLU between them, plus a skip (Figure 2c).

    Input and output are `[N, h, w, input channels]` and `[N, h, w, channels]` in the compute dtype. The skip is a 1x1
    convolution where the number of channels changes.

    Args:
        channels: int, output channels.
        hidden_channels: int, channels of the bottleneck.
        activation_first: bool. True puts a SiLU before each convolution (bottom-up path), False after each but the last
            (TopDown path).
        output_gain: float, factor of the last convolution's starting weights; 0 starts the block as its skip.
        **kwargs: passed to `keras.layers.Layer`.
    """

    def __init__(self, channels, hidden_channels, activation_first=True, output_gain=1.0, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.hidden_channels = hidden_channels
        self.activation_first = activation_first
        self.output_gain = output_gain
        layout = [
            (hidden_channels, 1, 1.0),
            (hidden_channels, 3, 1.0),
            (hidden_channels, 3, 1.0),
            (channels, 1, output_gain),
        ]
        self.convolutions = [
            MemoryEfficientConv2D(
                *each, silu=activation_first or index > 0, dtype=self.dtype_policy, name=f"conv_{index}"
            )
            for index, each in enumerate(layout)
        ]
        self.skip = None

    def build(self, input_shape):
        shape = tuple(input_shape)
        if shape[-1] != self.channels:
            self.skip = MemoryEfficientConv2D(self.channels, 1, dtype=self.dtype_policy, name="skip")
            self.skip.build(shape)
        for layer in self.convolutions:
            layer.build(shape)
            shape = (*shape[:-1], layer.filters)

    def call(self, inputs):
        x = inputs
        for layer in self.convolutions:
            x = layer(x)
        return x + (inputs if self.skip is None else self.skip(inputs))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.channels)

    def get_config(self):
        return {
            **super().get_config(),
            "channels": self.channels,
            "hidden_channels": self.hidden_channels,
            "activation_first": self.activation_first,
            "output_gain": self.output_gain,
        }
