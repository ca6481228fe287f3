"""Image data sets as tf.data pipelines of uint8 batches."""

from dvpvae_tf.data.omniglot import Omniglot28
from dvpvae_tf.data.pipelines import load_dataset

__all__ = ["Omniglot28", "load_dataset"]
