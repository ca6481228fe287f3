"""The two paths and the model made of them."""

from dvpvae_tf.models.bound_model import BoundModel
from dvpvae_tf.models.dvpvae import DVPVAE
from dvpvae_tf.models.outputs import Elbo, Features, Inference, Latents, Samples, SamplingOptions

__all__ = ["BoundModel", "DVPVAE", "Elbo", "Features", "Inference", "Latents", "Samples", "SamplingOptions"]
