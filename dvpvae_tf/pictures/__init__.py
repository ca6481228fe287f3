"""Pictures of what a model makes: samples, reconstructions, interpolations."""

from dvpvae_tf.pictures.rows import (
    grid,
    interpolation,
    partial_reconstructions,
    reconstructions,
    rows_of_samples,
    samples,
    samples_of_one_pseudoinput,
    save,
    to_uint8,
)

__all__ = [
    "grid",
    "interpolation",
    "partial_reconstructions",
    "reconstructions",
    "rows_of_samples",
    "samples",
    "samples_of_one_pseudoinput",
    "save",
    "to_uint8",
]
