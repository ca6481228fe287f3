"""The layers of the two paths and of the diffusion prior."""

from dvpvae_tf.layers.dct import DCT, InverseDCT
from dvpvae_tf.layers.res_block import ResBlock
from dvpvae_tf.layers.top_down_block import TopDownBlock, TopDownStep
from dvpvae_tf.layers.unet import UNet

__all__ = ["DCT", "InverseDCT", "ResBlock", "TopDownBlock", "TopDownStep", "UNet"]
