"""The search for better settings with KerasTuner."""

from dvpvae_tf.tuning.search import HyperDVPVAE, make_tuner, write_results

__all__ = ["HyperDVPVAE", "make_tuner", "write_results"]
