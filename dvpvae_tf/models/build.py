"""Makes the model that a config describes."""

from typing import Any

from dvpvae_tf.config import ModelConfig
from dvpvae_tf.layers.pseudoinputs import DCTPseudoinput, DownsamplePseudoinput, LearnablePseudoinput
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.models.likelihoods import BernoulliLikelihood, DiscretizedLogisticMixtureLikelihood
from dvpvae_tf.priors import DiffusionPrior, MixturePrior, StandardPrior, VampPrior
from dvpvae_tf.priors.diffusion import PAPER_STEPS

PSEUDOINPUTS = {"dct": DCTPseudoinput, "downsample": DownsamplePseudoinput, "learnable": LearnablePseudoinput}


def build_model(config: ModelConfig, **kwargs: Any) -> DVPVAE:
    """Makes the model that a config describes, as it is trained.

    For the prior "full_mixture" it has a diffusion prior (`config.prior_in_training`): no gradient trains a full
    mixture. When training ends, the command `train` puts the mixture in its place, by
    `dvpvae_tf.models.refit.with_full_mixture`.

    Args:
        config: the settings of the model.
        **kwargs: arguments of `DVPVAE` to add or change, such as `seed` or `dtype`.

    Returns:
        A built `DVPVAE` with starting weights.
    """
    pseudoinput = _pseudoinput(config)
    arguments: dict[str, Any] = dict(
        image_shape=(config.image_size, config.image_size, config.image_channels),
        scales=config.scales,
        layers_per_scale=config.layers_per_scale,
        likelihood=_likelihood(config),
        pseudoinput=pseudoinput,
        prior=None if pseudoinput is None else _prior_in_training(config, pseudoinput, kwargs.get("dtype")),
        top_prior=VampPrior(config.vamp_components, config.vamp_from_data, name="top_prior")
        if config.vamp_components
        else None,
        channels=config.channels,
        hidden_channels=config.hidden_channels,
        latent_channels=config.latent_channels,
        encoder_blocks=config.encoder_blocks,
        likelihood_input=config.likelihood_input,
        binary_encoder_input=config.encoder_input == "binary",
        input_mean=config.input_mean,
        input_std=config.input_std,
    )
    return DVPVAE(**arguments | kwargs)


def _likelihood(config):
    if config.likelihood == "bernoulli":
        return BernoulliLikelihood()
    if config.likelihood == "discretized_logistic_mixture":
        return DiscretizedLogisticMixtureLikelihood(config.mixtures)
    raise ValueError(f"There is no likelihood {config.likelihood!r}.")


def _pseudoinput(config):
    if config.pseudoinput == "none":
        return None
    return PSEUDOINPUTS[config.pseudoinput](
        config.pseudoinput_size,
        sigma_per_element=config.pseudoinput_sigma == "per_element",
        initial_log_var=config.gamma_min if config.prior_in_training == "diffusion" else -6.0,
        log_var_range=(config.pseudoinput_log_var_min, config.pseudoinput_log_var_max),
        name="pseudoinput",
    )


def _prior_in_training(config, pseudoinput, dtype):
    kind = config.prior_in_training  # "diffusion" in place of "full_mixture"
    if kind == "mixture":
        return MixturePrior(config.prior_components, name="prior")
    if kind == "standard":
        return StandardPrior(name="prior")
    if kind != "diffusion":
        raise ValueError(f"There is no prior {kind!r} to train with.")
    return DiffusionPrior(
        config.prior_channels,
        config.prior_blocks,
        config.prior_dropout,
        config.gamma_min,
        config.gamma_max,
        config.diffusion_steps or PAPER_STEPS,
        clip=pseudoinput.bounded,
        name="prior",
        dtype=dtype,
    )
