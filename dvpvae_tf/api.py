"""The public names of the package. Importing them registers every class that a saved model may hold."""

from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip

from dvpvae_tf.data import load_dataset
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.models.build import build_model
from dvpvae_tf.models.loading import load_model
from dvpvae_tf.optimizers import FusedAdamax

Adamax = FusedAdamax  # its name in earlier versions

__all__ = ["Adamax", "DVPVAE", "FusedAdamax", "build_model", "load_dataset", "load_model"]
