"""The model, what it returns, and what makes another model of a trained one.

A `DVPVAE` (the model of the paper) is a `GenerativeModel` (the methods that users call), and that is a `BoundModel`
(training and evaluation in Keras).

Methods change the model they belong to: `fit`, `adapt`, `calibrate`. The functions `with_...` leave it as it is, and
return another model.
"""

from dvpvae_tf.models.bound_model import BoundModel
from dvpvae_tf.models.dvpvae import DVPVAE
from dvpvae_tf.models.outputs import Elbo, Features, Inference, Latents, Samples, SamplingOptions
from dvpvae_tf.models.refit import (
    with_ancestral_process,
    with_diffusion_prior,
    with_full_mixture,
    with_labelled_mixture,
    with_prior,
)

__all__ = [
    "BoundModel",
    "DVPVAE",
    "Elbo",
    "Features",
    "Inference",
    "Latents",
    "Samples",
    "SamplingOptions",
    "with_ancestral_process",
    "with_diffusion_prior",
    "with_full_mixture",
    "with_labelled_mixture",
    "with_prior",
]
