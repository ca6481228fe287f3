"""A trained model with another prior over u, fitted to its r(u|x) as that is."""

import numpy as np

from dvpvae_tf.models.dvpvae import DVPVAE
from dvpvae_tf.priors import fit_full_mixture

FEWEST_DRAWS = 16_000  # of u to fit a mixture to: several of each image where there are fewer


def with_full_mixture(
    model: DVPVAE, images: np.ndarray, validation: np.ndarray, seed: int = 0, verbose: int = 1
) -> DVPVAE:
    """Gives the model with a mixture of Gaussians with full covariances as its prior over u.

    Args:
        model: trained, with pseudoinputs; it stays as it is.
        images: training images `[N, D, D, C]`: uint8, or float32 in [0, 1].
        validation: other images, which choose the number of components and the regularisation.
        seed: of the draws of u and of EM.
        verbose: 1 prints each fit, 0 nothing.

    Returns:
        The model with the fitted prior.

    Raises:
        ValueError: if no fit is finite.
    """
    u = model.draw_pseudoinputs(images, max(len(images), FEWEST_DRAWS), seed)
    validation_u = model.draw_pseudoinputs(validation, max(len(validation), FEWEST_DRAWS // 8), seed + 1)
    return model.with_prior(fit_full_mixture(u, validation_u, seed=seed, verbose=verbose))
