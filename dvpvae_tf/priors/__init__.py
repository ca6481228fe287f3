"""Priors over pseudoinputs, with the interface `Prior`; and the VampPrior, which is over the top latent."""

from dvpvae_tf.priors.diffusion import DiffusionPrior, DiffusionTerms
from dvpvae_tf.priors.diffusion_fit import fit_diffusion
from dvpvae_tf.priors.full_mixture import FullMixturePrior, fit_full_mixture
from dvpvae_tf.priors.labelled_mixture import LabelledMixturePrior
from dvpvae_tf.priors.mixture import MixturePrior
from dvpvae_tf.priors.prior import Prior
from dvpvae_tf.priors.standard import StandardPrior
from dvpvae_tf.priors.vamp import VampPrior

__all__ = [
    "DiffusionPrior",
    "DiffusionTerms",
    "FullMixturePrior",
    "LabelledMixturePrior",
    "MixturePrior",
    "Prior",
    "StandardPrior",
    "VampPrior",
    "fit_diffusion",
    "fit_full_mixture",
]
