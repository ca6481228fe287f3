"""The settings of a model and of its training, as typed classes that check them."""

import os
import re
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from dvpvae_tf.config.datasets import DEFAULT_DATASET, NAMED_DATASETS, find_reader
from dvpvae_tf.config.strict import StrictSettings

# Where and how images are read.
SOURCE_SETTINGS = {"data_dir", "image_size", "omniglot_mat", "background", "skip_broken"}

Numbers = Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)]
Pseudoinput = Annotated[
    Literal["dct", "downsample", "learnable", "none"],
    BeforeValidator(lambda value: "none" if value is None else value),
]


class ModelConfig(StrictSettings):
    """Everything needed to construct the model; the defaults are the MNIST column of Table 7."""

    image_size: int = Field(28, gt=0, description="Side of the square images, in pixels.")
    image_channels: int = Field(1, gt=0, description="Channels of the images: 1 grey, 3 colour.")
    scales: Numbers = Field((14, 7), description="Sides of the latent maps, from fine to coarse.")
    layers_per_scale: Numbers = Field((4, 4), description="Stochastic layers on each scale.")
    latent_channels: int = Field(1, gt=0, description="Channels of each latent variable z.")
    channels: int = Field(32, gt=0, description="Feature channels (C_in of Table 7).")
    hidden_channels: int = Field(32, gt=0, description="Channels inside a residual block (C_hid of Table 7).")
    encoder_blocks: int = Field(3, gt=0, description="Residual blocks of the encoder on each scale (N_enc).")
    likelihood_input: Literal["all_latents", "last_latent", "last_features"] = Field(
        "all_latents",
        description="What the likelihood sees: all latents (Eq. 18), z_1 (Eq. 21) or the last features (Eq. 22).",
    )
    likelihood: Literal["bernoulli", "discretized_logistic_mixture"] = Field(
        "bernoulli", description="Distribution of a pixel given the latents."
    )
    mixtures: int = Field(10, gt=0, description="Components of the discretized logistic mixture.")
    encoder_input: Literal["grey", "binary"] = Field(
        "grey", description="What the encoder sees: the grey image, or its Bernoulli draw."
    )
    input_mean: float = Field(127.5, description="The encoder sees (255 x - mean) / std, for x in [0, 1].")
    input_std: float = Field(127.5, gt=0, description="Divisor of the pixels, after input_mean is subtracted.")
    pseudoinput: Pseudoinput = Field("dct", description="Transform that gives u; none for the Ladder VAE.")
    pseudoinput_size: int = Field(7, gt=0, description="Side of the pseudoinput u.")
    pseudoinput_sigma: Literal["per_element", "scalar"] = Field(
        "per_element", description="Standard deviations of r(u|x): one per element of u, or one in all."
    )
    pseudoinput_log_var_min: float = Field(-12.0, description="Lower limit of the log-variance of r(u|x).")
    pseudoinput_log_var_max: float = Field(2.0, description="Upper limit of the log-variance of r(u|x).")
    prior: Literal["diffusion", "mixture", "standard", "full_mixture"] = Field(
        "diffusion",
        description="Prior over u. full_mixture: a diffusion prior, until a mixture replaces it when training ends.",
    )
    prior_channels: int = Field(16, gt=0, multiple_of=16, description="Channels of the prior's UNet.")
    prior_blocks: int = Field(2, gt=0, description="Residual blocks of the UNet before its middle.")
    prior_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout rate in the UNet.")
    gamma_min: float = Field(-6.0, description="Minus log SNR at t = 0.")
    gamma_max: float = Field(7.0, description="Minus log SNR at t = 1.")
    diffusion_steps: int | None = Field(
        None, gt=0, description="Steps T of the diffusion prior, up to 100; none: chosen when training ends, 50 before."
    )
    prior_components: int = Field(10, gt=0, description="Components of the mixture prior.")
    vamp_components: int = Field(
        0, ge=0, description="K of a VampPrior over the top latent (Eq. 7), without pseudoinputs; 0: none."
    )
    vamp_from_data: bool = Field(True, description="A VampPrior's pseudoinputs start as training images, or at random.")

    @property
    def prior_in_training(self) -> str:
        """The prior that r(u|x) is trained with.

        No gradient trains a full mixture: a diffusion prior holds its place, until the mixture is fitted to the trained
        r(u|x), see `dvpvae_tf.training.loop`.
        """
        return "diffusion" if self.prior == "full_mixture" else self.prior

    @model_validator(mode="after")
    def _check_scales(self) -> "ModelConfig":
        if len(self.scales) != len(self.layers_per_scale):
            raise ValueError(
                f"scales {list(self.scales)} and layers_per_scale {list(self.layers_per_scale)} "
                "differ in length: give one number of layers for each scale"
            )
        chain = pairwise((self.image_size, *self.scales))
        if any(side % smaller for side, smaller in chain) or len(set(self.scales)) < len(self.scales):
            raise ValueError(
                f"scales {list(self.scales)} do not fit image_size {self.image_size}: each must divide "
                "the one before it (the first: image_size) and be smaller than it"
            )
        return self

    @model_validator(mode="after")
    def _check_the_rest(self) -> "ModelConfig":
        mixture = self.likelihood == "discretized_logistic_mixture"
        if mixture and self.image_channels not in (1, 3):
            raise ValueError(f"{self.likelihood} needs image_channels 1 or 3, not {self.image_channels}")
        if mixture and self.encoder_input == "binary":
            raise ValueError("encoder_input binary needs likelihood bernoulli: use encoder_input grey")
        if self.vamp_components and self.pseudoinput != "none":
            raise ValueError("vamp_components is for models without pseudoinputs: set pseudoinput none")
        if self.pseudoinput_size > self.image_size:
            raise ValueError(f"pseudoinput_size {self.pseudoinput_size} exceeds image_size {self.image_size}")
        for low, high in (("gamma_min", "gamma_max"), ("pseudoinput_log_var_min", "pseudoinput_log_var_max")):
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(f"{low} {getattr(self, low)} must be less than {high} {getattr(self, high)}")
        return self


class DataConfig(StrictSettings):
    """The settings that say which images are read and how they are shared out to devices."""

    dataset: str = Field(DEFAULT_DATASET, description=f"{', '.join(NAMED_DATASETS)}, tfds:NAME, folder:PATH.")
    data_dir: str | None = Field(None, description="Folder of TensorFlow Datasets.")
    omniglot_mat: str | None = Field(None, description="OMNIGLOT's chardata.mat, if already at hand.")
    image_size: int | None = Field(None, ge=8, description="Resize tfds: or folder: images to this side.")
    background: str = Field("white", min_length=1, description="Colour under transparent pictures of folder:.")
    skip_broken: bool = Field(False, description="Leave out pictures of folder: that cannot be read.")
    horizontal_flip: bool = Field(False, description="Flip training images left to right at random.")
    batch_size: int = Field(100, gt=0, description="Images in a training step, over all devices.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the weights, the shuffling and the noise.")
    strategy: Literal["single", "mirrored", "multiworker"] = Field(
        "single", description="Train on one device, on all of this machine, or on all machines of TF_CONFIG."
    )

    @field_validator("data_dir", "omniglot_mat", "init_from", "output", check_fields=False)
    @classmethod
    def _expand_home(cls, path: str | None) -> str | None:
        """Replaces `~`, which no shell does in a YAML file."""
        return path and os.path.expanduser(path)

    @field_validator("dataset")
    @classmethod
    def strip_slash(cls, dataset: str) -> str:
        """Removes the slash at the end of `folder:pics/`, which names the same data as `folder:pics`."""
        return dataset.rstrip("/") if re.match("folder:/*[^/]", dataset) else dataset

    @property
    def source(self) -> dict[str, Any]:
        """The arguments of `dvpvae_tf.data.pipelines.read_dataset`."""
        return {"name": self.dataset, **self.model_dump(include=SOURCE_SETTINGS)}

    @property
    def named(self) -> bool:
        """Whether the data set is one of NAMED_DATASETS, whose image shape its presets know."""
        return self.dataset in NAMED_DATASETS

    @model_validator(mode="after")
    def _check_dataset(self) -> "DataConfig":
        find_reader(self.dataset, self.image_size)  # raises where there is a mistake
        return self


class TrainConfig(DataConfig):
    """One training run: data, optimisation and model (Table 7)."""

    epochs: int = Field(gt=0, description="Passes over the training set; more with --resume train on.")
    learning_rate: float = Field(gt=0, description="Learning rate after the warm-up.")
    end_learning_rate: float = Field(ge=0, description="Learning rate at the end of the cosine.")
    warmup_epochs: int = Field(ge=0, description="Epochs of linear warm-up.")
    weight_decay: float = Field(1e-6, ge=0, description="Decoupled weight decay.")
    gradient_clip_norm: float = Field(gt=0, description="Limit of the gradient's global norm.")
    ema_momentum: float = Field(
        0.999, ge=0, lt=1, description="Momentum of the averaged weights (EMA); short runs use less."
    )
    early_stopping_epochs: int = Field(0, ge=0, description="Epochs without progress before a stop; 0: off.")
    validate_raw_weights: bool = Field(False, description="Validate the raw weights, not their EMA.")
    mixed_precision: bool = Field(False, description="Compute in bfloat16.")
    gradient_accumulation: int = Field(1, gt=0, description="Parts that a batch is computed in, for less memory.")
    remat: bool = Field(False, description="Compute blocks again in the backward pass: less memory, more time.")
    jit_compile: bool = Field(False, description="Compile with XLA (strategy single).")
    labels: bool = Field(False, description="End with a full mixture over u for each class of the data set.")
    init_from: str | None = Field(None, min_length=1, description="Run or .keras file whose weights to start from.")
    name: str | None = Field(None, min_length=1, description="Folder of this run inside `output`.")
    output: str = Field("runs", min_length=1, description="Folder of all runs.")
    picture_every_epochs: int = Field(1, gt=0, description="Epochs between pictures and layer statistics.")
    model: ModelConfig = Field(description="The architecture; a list is written 14,7.")

    @model_validator(mode="after")
    def _check_learning_rates(self) -> "TrainConfig":
        if self.end_learning_rate > self.learning_rate:
            raise ValueError(
                f"end_learning_rate {self.end_learning_rate} exceeds learning_rate {self.learning_rate}: "
                "give a smaller one"
            )
        return self

    @model_validator(mode="after")
    def _check_labels(self) -> "TrainConfig":
        if self.labels and self.model.pseudoinput == "none":
            raise ValueError("labels needs a model with pseudoinputs: leave it out with pseudoinput none")
        if self.labels and self.model.prior != "full_mixture":
            raise ValueError(f"labels needs model.prior full_mixture: a {self.model.prior} prior takes no label")
        return self

    @model_validator(mode="after")
    def _check_parts(self) -> "TrainConfig":
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be split into {self.gradient_accumulation} equal parts: "
                "give another gradient_accumulation"
            )
        return self

    @model_validator(mode="after")
    def _check_compilation(self) -> "TrainConfig":
        if self.jit_compile and self.strategy != "single":
            raise ValueError(
                "jit_compile is for one device, as TensorFlow's XLA does not train on several: "
                f"leave it out with strategy {self.strategy}"
            )
        return self
