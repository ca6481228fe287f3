"""The noise predictor of the diffusion prior: a UNet of one resolution (Appendix C.1, Table 7)."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf.layers.convolution import MemoryEfficientConv2D, uniform_initializer
from dvpvae_tf.layers.group_norm import AdaptiveGroupNorm
from dvpvae_tf.layers.shape import Shape
from dvpvae_tf.layers.shared_trace import SharedTrace

GROUPS = 16


def _norm(layer: keras.layers.Layer, name: str) -> AdaptiveGroupNorm:
    return AdaptiveGroupNorm(GROUPS, epsilon=1e-5, dtype=layer.dtype_policy, name=name)


def _dense(layer: keras.layers.Layer, units: int, gain: float = 1.0, name: str | None = None) -> keras.layers.Dense:
    return keras.layers.Dense(units, kernel_initializer=uniform_initializer(gain), dtype=layer.dtype_policy, name=name)


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class TimeEmbedding(keras.layers.Layer):
    """Embeds a time in [0, 1]: cosines, then sines, of it at geometric frequencies, through two dense layers.

    Maps `[N]` to `[N, channels]`. The sinusoids are computed in float32.

    Args:
        channels: an even number.
        **kwargs: passed to `keras.layers.Layer`.
    """

    def __init__(self, channels: int, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.channels = channels
        self.hidden = _dense(self, channels, name="hidden")
        self.output_layer = _dense(self, channels, name="output")

    def build(self, input_shape: Shape) -> None:
        half = self.channels // 2
        self.frequencies = (10000.0 ** (-np.arange(half) / half)).astype("float32")
        self.hidden.build((None, self.channels))
        self.output_layer.build((None, self.channels))

    def call(self, time: tf.Tensor) -> tf.Tensor:
        angles = keras.ops.cast(time, "float32")[:, None] * self.frequencies
        waves = keras.ops.concatenate([keras.ops.cos(angles), keras.ops.sin(angles)], axis=-1)
        return self.output_layer(keras.ops.silu(self.hidden(waves)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels}


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class UNetBlock(keras.layers.Layer):
    """A residual block of the UNet whose second normalisation is scaled and shifted by the embedded time.

    Called as `block(inputs, embedding)`: `[N, d, d, input channels]` and `[N, width]` to `[N, d, d, channels]`.

    Args:
        channels: output channels, divisible by 16.
        dropout: dropout rate before the last convolution.
        **kwargs: passed to `keras.layers.Layer`.
    """

    def __init__(self, channels: int, dropout: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.channels = channels
        self.dropout = dropout
        self.norm_in = _norm(self, "norm_in")
        self.conv_in = MemoryEfficientConv2D(channels, 3, silu=True, dtype=self.dtype_policy, name="conv_in")
        self.modulation = _dense(self, 2 * channels, name="modulation")
        self.norm_out = _norm(self, "norm_out")
        self.dropout_layer = keras.layers.Dropout(dropout, dtype=self.dtype_policy)
        self.conv_out = MemoryEfficientConv2D(channels, 3, gain=0.0, dtype=self.dtype_policy, name="conv_out")
        self.skip: MemoryEfficientConv2D | None = None

    def build(self, inputs_shape: Shape, embedding_shape: Shape) -> None:
        shape = (*inputs_shape[:-1], self.channels)
        if inputs_shape[-1] != self.channels:
            self.skip = MemoryEfficientConv2D(self.channels, 1, dtype=self.dtype_policy, name="skip")
            self.skip.build(inputs_shape)
        for layer in (self.norm_in, self.conv_in):
            layer.build(inputs_shape)
        self.modulation.build(embedding_shape)
        for layer in (self.norm_out, self.dropout_layer, self.conv_out):
            layer.build(shape)

    def call(self, inputs: tf.Tensor, embedding: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = self.conv_in(self.norm_in(inputs))
        scale, shift = keras.ops.split(self.modulation(keras.ops.silu(embedding)), 2, axis=-1)
        x = keras.ops.silu(self.norm_out(x, scale=scale, shift=shift))
        x = self.conv_out(self.dropout_layer(x, training=training))
        return x + (inputs if self.skip is None else self.skip(inputs))

    def compute_output_shape(self, inputs_shape: Shape, embedding_shape: Shape) -> Shape:
        return (*inputs_shape[:-1], self.channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels, "dropout": self.dropout}


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class SelfAttention(keras.layers.Layer):
    """One-head self-attention over all positions, as a residual: `[N, d, d, channels]` to the same."""

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        self.norm = _norm(self, "norm")
        self.query_key_value = _dense(self, 3 * channels, name="query_key_value")
        self.projection = _dense(self, channels, gain=0.0, name="projection")
        for layer in (self.norm, self.query_key_value, self.projection):
            layer.build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        _, height, width, channels = inputs.shape
        # Dense layers see matrices: for more axes they compute shapes, on a GPU with a copy to the host.
        rows = self.query_key_value(keras.ops.reshape(self.norm(inputs), (-1, channels)))
        tokens = keras.ops.reshape(rows, (-1, height * width, 3 * channels))
        query, key, value = keras.ops.split(tokens, 3, axis=-1)
        logits = keras.ops.matmul(query / channels**0.5, keras.ops.swapaxes(key, 1, 2))
        # The softmax over positions is taken in float32: bfloat16 cannot sum small weights.
        weights = keras.ops.softmax(keras.ops.cast(logits, "float32"), axis=-1)
        mixed = keras.ops.matmul(keras.ops.cast(weights, self.compute_dtype), value)
        projected = self.projection(keras.ops.reshape(mixed, (-1, channels)))
        return inputs + keras.ops.reshape(projected, (-1, height, width, channels))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class UNet(keras.layers.Layer):
    """Predicts the noise in y_t: residual blocks at one resolution with skips from the first half to the second.

    Called as `unet(inputs, time)`: `[N, d, d, C]` and times `[N]` or `[1]` in [0, 1] to `[N, d, d, C]` in the compute
    dtype.

    Args:
        channels: width, divisible by 16.
        blocks: residual blocks before the middle (one more after it).
        dropout: dropout rate inside the residual blocks.
        **kwargs: passed to `keras.layers.Layer`.

    Raises:
        ValueError: if `channels` is not divisible by 16.
    """

    def __init__(self, channels: int = 16, blocks: int = 2, dropout: float = 0.0, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)  # a time in bfloat16 would have 8 bits
        if channels % GROUPS:
            raise ValueError(f"The UNet's channels must be divisible by {GROUPS}, got {channels}.")
        self.channels = channels
        self.blocks = blocks
        self.dropout = dropout
        self._call = SharedTrace()

        def block(name: str) -> UNetBlock:
            return UNetBlock(channels, dropout, dtype=self.dtype_policy, name=name)

        self.time_embedding = TimeEmbedding(channels, dtype=self.dtype_policy, name="time_embedding")
        self.conv_in = MemoryEfficientConv2D(channels, 3, dtype=self.dtype_policy, name="conv_in")
        self.down = [block(f"down_{i}") for i in range(blocks)]
        self.middle_in = block("middle_in")
        self.attention = SelfAttention(dtype=self.dtype_policy, name="attention")
        self.middle_out = block("middle_out")
        self.up = [block(f"up_{i}") for i in range(blocks + 1)]
        self.norm_out = _norm(self, "norm_out")

    def build(self, inputs_shape: Shape, time_shape: Shape) -> None:
        features = (*inputs_shape[:-1], self.channels)
        embedding = (inputs_shape[0], self.channels)
        channels = inputs_shape[-1]
        self.conv_out = MemoryEfficientConv2D(
            channels, 3, gain=0.0, silu=True, dtype=self.dtype_policy, name="conv_out"
        )
        self.time_embedding.build(time_shape)
        self.conv_in.build(inputs_shape)
        for block in (*self.down, self.middle_in, self.middle_out):
            block.build(features, embedding)
        for block in self.up:
            block.build((*inputs_shape[:-1], 2 * self.channels), embedding)
        for layer in (self.attention, self.norm_out, self.conv_out):
            layer.build(features)

    def call(self, inputs: tf.Tensor, time: tf.Tensor, training: bool = False) -> tf.Tensor:
        embedding = self.time_embedding(time)
        x = self.conv_in(keras.ops.cast(inputs, self.compute_dtype))
        skips = [x]
        for block in self.down:
            x = self._call(block, x, embedding, training=training)
            skips.append(x)
        x = self.attention(self._call(self.middle_in, x, embedding, training=training))
        x = self._call(self.middle_out, x, embedding, training=training)
        for block in self.up:
            x = self._call(block, keras.ops.concatenate([x, skips.pop()], axis=-1), embedding, training=training)
        return self.conv_out(self.norm_out(x))

    def compute_output_shape(self, inputs_shape: Shape, time_shape: Shape) -> Shape:
        return inputs_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels, "blocks": self.blocks, "dropout": self.dropout}
