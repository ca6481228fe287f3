"""How good a model is: bounds on log p(x), layer statistics and distances between features."""

from dvpvae_tf.evaluation.bounds import elbo, iwae, negative_elbo, published
from dvpvae_tf.evaluation.distances import (
    FeatureDistances,
    KernelDistance,
    feature_distances,
    frechet_distance,
    kernel_distance,
)
from dvpvae_tf.evaluation.features import (
    classifier_accuracy,
    classifier_features,
    inception_features,
    load_classifier,
    load_inception,
    train_classifier,
)
from dvpvae_tf.evaluation.layer_statistics import LayerStatistics, layer_statistics
from dvpvae_tf.evaluation.results import Evaluation
from dvpvae_tf.evaluation.scores import LabelResults, Scores, label_log_probs, score, score_labels, typicality

__all__ = [
    "Evaluation",
    "FeatureDistances",
    "KernelDistance",
    "LabelResults",
    "LayerStatistics",
    "Scores",
    "classifier_accuracy",
    "classifier_features",
    "elbo",
    "feature_distances",
    "frechet_distance",
    "inception_features",
    "iwae",
    "kernel_distance",
    "label_log_probs",
    "layer_statistics",
    "load_classifier",
    "load_inception",
    "negative_elbo",
    "published",
    "score",
    "score_labels",
    "train_classifier",
    "typicality",
]
