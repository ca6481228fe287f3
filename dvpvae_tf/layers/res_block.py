"""The residual block of both paths (Figure 2c)."""

from typing import Any

import keras
import tensorflow as tf

from dvpvae_tf.layers.convolution import MemoryEfficientConv2D
from dvpvae_tf.layers.shape import Shape


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class ResBlock(keras.layers.Layer):
    """A residual bottleneck: 1x1, 3x3, 3x3 and 1x1 convolutions with SiLU between them, plus a skip (Figure 2c).

    Maps `[N, h, w, input channels]` to `[N, h, w, channels]` in the compute dtype. The skip is a 1x1 convolution if the
    number of channels changes.

    Args:
        channels: output channels.
        hidden_channels: channels of the bottleneck.
        activation_first: True puts a SiLU before each convolution (bottom-up path), False after each but the last
            (TopDown path).
        output_gain: factor of the initial weights of the last convolution; with 0 the block starts as its skip.
        **kwargs: passed to `keras.layers.Layer`.
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        activation_first: bool = True,
        output_gain: float = 1.0,
        **kwargs: Any,
    ):
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
        self.skip: MemoryEfficientConv2D | None = None

    def build(self, input_shape: Shape) -> None:
        shape = tuple(input_shape)
        if shape[-1] != self.channels:
            self.skip = MemoryEfficientConv2D(self.channels, 1, dtype=self.dtype_policy, name="skip")
            self.skip.build(shape)
        for layer in self.convolutions:
            layer.build(shape)
            shape = (*shape[:-1], layer.filters)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        x = inputs
        for layer in self.convolutions:
            x = layer(x)
        return x + (inputs if self.skip is None else self.skip(inputs))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.channels)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "channels": self.channels,
            "hidden_channels": self.hidden_channels,
            "activation_first": self.activation_first,
            "output_gain": self.output_gain,
        }
