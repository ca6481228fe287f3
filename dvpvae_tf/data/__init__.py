"""Image data sets as tf.data pipelines of uint8 batches."""

from typing import TYPE_CHECKING, Any

from dvpvae_tf.data.pipelines import load_dataset

if TYPE_CHECKING:
    from dvpvae_tf.data.omniglot import Omniglot28

__all__ = ["Omniglot28", "load_dataset"]


def __getattr__(name: str) -> Any:
    if name == "Omniglot28":  # imports TensorFlow Datasets, which takes long
        from dvpvae_tf.data.omniglot import Omniglot28

        return Omniglot28
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
