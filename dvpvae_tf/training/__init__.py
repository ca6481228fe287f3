"""Training: the loop, its callbacks and the run folder."""

from dvpvae_tf.training.loop import Classes, initialize, make_model, train
from dvpvae_tf.training.run_folder import RunFolder

__all__ = ["Classes", "RunFolder", "initialize", "make_model", "train"]
