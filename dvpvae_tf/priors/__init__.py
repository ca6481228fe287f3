"""Priors over pseudoinputs: a bound or density to train with, and a sampler."""

from dvpvae_tf.priors.diffusion import DiffusionPrior, DiffusionTerms
from dvpvae_tf.priors.mixture import MixturePrior
from dvpvae_tf.priors.standard import StandardPrior

__all__ = ["DiffusionPrior", "DiffusionTerms", "MixturePrior", "StandardPrior"]
