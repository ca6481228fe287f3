"""The model card of an exported model: its training data, its measured bound, and how to call it."""

from collections.abc import Iterable, Mapping

import tensorflow as tf

from dvpvae_tf.config import TrainConfig
from dvpvae_tf.evaluation.results import plus_minus
from dvpvae_tf.models import DVPVAE

CARD = """# {name}, version {version}

A DVP-VAE (Kuzina and Tomczak, "Hierarchical VAE with a Diffusion-based VampPrior", TMLR 2024) of {parameters:,}
parameters for images of {shape}, exported by dvpvae_tf {library}.

* Trained on: {dataset}.
* Prior over u: {prior}{labels}
* Bound: {bound}
* Made with: {command}{training}

## Signatures

Each row is computed by itself: its outputs do not depend on the other rows of the batch.

| signature | inputs | outputs |
|---|---|---|
{table}

`sample` is also `serving_default`. The same `seed` gives the same image. `temperature` (0 or more) scales the standard
deviation of z: below 1, images are cleaner and more alike. `sample_mean` takes the mean of p(x|z) in place of a draw:
smoother pictures, but no samples of the model (with a Bernoulli likelihood, both take the mean).

`reconstruct` and `encode` use no noise: `pseudoinput` is the mean of r(u|x), `z_l` are the posterior means. `score`
returns for each image `negative_elbo`, {score}, from one draw of the noise, in nats,
and its terms. The lower it is, the more the image is like the training images. One draw is noisy: average over seeds.

PNG files may have 1 to 16 bits a channel; transparent pixels are laid on white.

If a row is invalid, `error` says why, and its other outputs are NaN or a white image; else `error` is empty.
TensorFlow Serving's REST API writes NaN as a bare `NaN`, which strict JSON parsers refuse: read `error` or use gRPC
there. A PNG file that is damaged in the middle makes its whole batch fail.

## Limits

Samples are like the training data and share its gaps. A good score does not prove that an image is normal: images of
another kind can score well.
"""


def model_card(
    name: str,
    version: int,
    model: DVPVAE,
    signatures: Mapping[str, tf.types.experimental.ConcreteFunction],
    config: TrainConfig | None,
    bound: dict | None,
    steps: int | None,
    prior_temperature: float,
    command: str | None,
    metadata: dict | None = None,
) -> str:
    """Writes the model card.

    Args:
        name: name of the exported model.
        version: its version.
        model: the model.
        signatures: signatures of the SavedModel, loaded again.
        config: settings of the run, or None.
        bound: `Evaluation.summary()` with the key "data", the name of the images, or None.
        steps: T, or None where the prior over u has no diffusion steps.
        prior_temperature: temperature of the prior over u.
        command: command that exported the model, or None.
        metadata: what the `metadata.json` of a trained model says of it, or None.

    Returns:
        Markdown.
    """
    from dvpvae_tf import __version__

    height, width, channels = model.image_shape
    return CARD.format(
        name=name,
        version=version,
        parameters=model.num_parameters,
        shape=f"{height} x {width} x {channels}, float32 in [0, 1]",
        library=__version__,
        dataset=_trained_on(config, metadata or {}),
        prior=_prior_text(model, steps, prior_temperature),
        labels=_labels_text(model),
        bound=_bound_text(bound),
        command=f"`{command}`" if command else "not recorded",
        training=" after `python -m dvpvae_tf.train --config config.yaml`, the file beside this one" if config else "",
        table=_signature_table(signatures),
        score=f"the negative ELBO of the process of T = {steps} steps" if steps else "the negative ELBO",
    )


def _prior_text(model: DVPVAE, steps: int | None, prior_temperature: float) -> str:
    if model.prior is None:
        return "none."
    kind = f"diffusion of T = {steps} steps" if steps else "without diffusion steps"
    return f"{kind}; its temperature, fixed at export, is {prior_temperature:g}."


def _labels_text(model: DVPVAE) -> str:
    labels = getattr(model.prior, "labels", None)
    return f"\n* Labels, for `sample_label`: {', '.join(labels)}." if labels else ""


def _trained_on(config: TrainConfig | None, metadata: dict) -> str:
    if config:
        return f"{config.dataset}, at most {config.epochs} epochs, seed {config.seed}"
    if "dataset" in metadata and "epochs" in metadata:
        return f"{metadata['dataset']}, {metadata['epochs']} epochs; saved {metadata['date_saved']}"
    return "not recorded"


def _bound_text(bound: dict | None) -> str:
    if bound is None:
        return "not measured."
    nats, bits, elbo = plus_minus(bound["nats"]), bound["bits_per_dim"]["mean"], plus_minus(bound["negative_elbo"])
    return (
        f"{nats} nats, or {bits:.4f} bits per dimension, by {bound['estimator']}; negative ELBO {elbo} nats. Means and "
        f"standard errors over the first {bound['images']:,} images of {bound['data']}; seed {bound['seed']}."
    )


def _signature_table(signatures: Mapping[str, tf.types.experimental.ConcreteFunction]) -> str:
    rows = []
    for name, signature in sorted(signatures.items()):
        inputs = _specs_text(sorted(signature.structured_input_signature[1].items()))
        rows.append(f"| `{name}` | {inputs} | {_specs_text(sorted(signature.structured_outputs.items()))} |")
    return "\n".join(rows)


def _specs_text(specs: Iterable[tuple[str, tf.TensorSpec]]) -> str:
    return ", ".join(f"`{name}` {spec.dtype.name} [{', '.join(map(_side, spec.shape))}]" for name, spec in specs)


def _side(side: int | None) -> str:
    return "N" if side is None else str(side)
