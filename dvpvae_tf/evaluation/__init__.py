"""How good a model is: bounds on log p(x), layer statistics and distances between features."""

from dvpvae_tf.evaluation.bounds import elbo, iwae, negative_elbo, published
from dvpvae_tf.evaluation.layer_statistics import LayerStatistics, layer_statistics
from dvpvae_tf.evaluation.results import Evaluation
from dvpvae_tf.evaluation.scores import LabelResults, Scores, label_log_probs, score, score_labels, typicality

__all__ = [
    "Evaluation",
    "LabelResults",
    "LayerStatistics",
    "Scores",
    "elbo",
    "iwae",
    "label_log_probs",
    "layer_statistics",
    "negative_elbo",
    "published",
    "score",
    "score_labels",
    "typicality",
]
