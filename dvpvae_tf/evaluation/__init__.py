"""What a model is worth: bounds on log p(x), layer statistics and distances between features."""

from dvpvae_tf.evaluation.bounds import Bound, Evaluation, elbo, iwae, negative_elbo, published
from dvpvae_tf.evaluation.layer_statistics import LayerStatistics, layer_statistics

__all__ = ["Bound", "Evaluation", "LayerStatistics", "elbo", "iwae", "layer_statistics", "negative_elbo", "published"]
