"""The bottom-up path, from the image to features at each scale (Section 4.1, Figure 2a left)."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from dvpvae_tf.layers.convolution import MemoryEfficientConv2D
from dvpvae_tf.layers.res_block import ResBlock
from dvpvae_tf.layers.shape import Shape
from dvpvae_tf.layers.shared_trace import SharedTrace


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class BottomUp(keras.layers.Layer):
    """Residual blocks, then average pooling, at each scale (Section 4.1).

    Maps `[N, D, D, C]` to a list of features `[N, side, side, channels]` in the compute dtype, one a scale, fine to
    coarse.

    Args:
        scales: sides of the feature maps, fine to coarse; each divides the one before.
        channels: channels of the features.
        hidden_channels: channels of the residual blocks' bottleneck.
        blocks: residual blocks a scale (N_enc).
        **kwargs: passed to `keras.layers.Layer`.
    """

    def __init__(self, scales: Sequence[int], channels: int, hidden_channels: int, blocks: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.scales = tuple(scales)
        self.channels = channels
        self.hidden_channels = hidden_channels
        self.blocks = blocks
        self.conv_in = MemoryEfficientConv2D(channels, 1, dtype=self.dtype_policy, name="conv_in")
        self._call = SharedTrace()
        self.stages = [
            [
                ResBlock(channels, hidden_channels, dtype=self.dtype_policy, name=f"scale_{side}_block_{index}")
                for index in range(blocks)
            ]
            for side in self.scales
        ]

    def build(self, input_shape: Shape) -> None:
        self.conv_in.build(input_shape)
        side = input_shape[1]
        self.pools = []
        for target, stage in zip(self.scales, self.stages, strict=True):
            for block in stage:
                block.build((input_shape[0], side, side, self.channels))
            pool = keras.layers.AveragePooling2D(side // target, data_format="channels_last", dtype=self.dtype_policy)
            self.pools.append(pool)
            side = target

    def call(self, inputs: tf.Tensor) -> list[tf.Tensor]:
        x = self.conv_in(inputs)
        features = []
        for stage, pool in zip(self.stages, self.pools, strict=True):
            for block in stage:
                x = self._call(block, x)
            x = x if pool.pool_size == (1, 1) else pool(x)
            features.append(x)
        return features

    def compute_output_shape(self, input_shape: Shape) -> list[Shape]:
        return [(input_shape[0], side, side, self.channels) for side in self.scales]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "scales": self.scales,
            "channels": self.channels,
            "hidden_channels": self.hidden_channels,
            "blocks": self.blocks,
        }
