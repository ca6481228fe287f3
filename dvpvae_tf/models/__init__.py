"""The two paths and the model made of them."""

from dvpvae_tf.models.dvpvae import DVPVAE, Elbo, Inference, Samples

__all__ = ["DVPVAE", "Elbo", "Inference", "Samples"]
