"""The settings of a model and of its training: typed classes, YAML presets and the command line.

Nothing here imports TensorFlow or Keras, so a mistake in a setting is told before either is loaded.
"""

import math
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from dvpvae_tf.config.parser import Parser
from dvpvae_tf.errors import UserError, did_you_mean

NAMED_DATASETS = ("mnist5k", "mnist", "omniglot", "cifar10")
DEFAULT_DATASET = "mnist5k"
COMMAND_OPTIONS = ("config", "dry_run", "resume")
FLAG = "--"


class _Settings(BaseModel):
    """Settings that cannot be changed and know no other key than their own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Settings = TypeVar("Settings", bound=_Settings)
Numbers = Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)]
Pseudoinput = Annotated[
    Literal["dct", "downsample", "learnable", "none"],
    BeforeValidator(lambda value: "none" if value is None else value),
]


class ModelConfig(_Settings):
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
    input_std: float = Field(127.5, gt=0, description="See input_mean.")
    pseudoinput: Pseudoinput = Field("dct", description="Transform that gives u; none for the Ladder VAE.")
    pseudoinput_size: int = Field(7, gt=0, description="Side of the pseudoinput u.")
    pseudoinput_sigma: Literal["per_element", "scalar"] = Field(
        "per_element", description="Standard deviations of r(u|x): one per element of u, or one in all."
    )
    pseudoinput_log_var_min: float = Field(-12.0, description="Lower limit of the log-variance of r(u|x).")
    pseudoinput_log_var_max: float = Field(2.0, description="Upper limit of the log-variance of r(u|x).")
    prior: Literal["diffusion", "mixture", "standard"] = Field("diffusion", description="Prior over u.")
    prior_channels: int = Field(16, gt=0, multiple_of=16, description="Channels of the prior's UNet.")
    prior_blocks: int = Field(2, gt=0, description="Residual blocks of the UNet per scale.")
    prior_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout rate in the UNet.")
    gamma_min: float = Field(-6.0, description="Minus log SNR at t = 0.")
    gamma_max: float = Field(7.0, description="Minus log SNR at t = 1.")
    diffusion_steps: int = Field(50, gt=0, description="Steps T in which the prior samples and scores.")
    prior_components: int = Field(10, gt=0, description="Components of the mixture prior.")
    vamp_components: int = Field(
        0, ge=0, description="K of a VampPrior over the top latent (Eq. 7), without pseudoinputs; 0: none."
    )
    vamp_from_data: bool = Field(True, description="Its pseudoinputs start as training images, or at random.")

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


class DataConfig(_Settings):
    """The settings that are needed to read the data and to share it out, before the shape of the images is known."""

    dataset: str = Field(DEFAULT_DATASET, description=f"{', '.join(NAMED_DATASETS)}, tfds:NAME, folder:PATH.")
    data_dir: str | None = Field(None, description="Folder of TensorFlow Datasets.")
    omniglot_mat: str | None = Field(None, description="OMNIGLOT's chardata.mat, if already at hand.")
    image_size: int | None = Field(None, ge=8, description="Resize tfds: or folder: images to this side.")
    horizontal_flip: bool = Field(False, description="Flip training images left to right at random.")
    batch_size: int = Field(100, gt=0, description="Images in a training step, over all devices.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the weights, of the shuffling and of all noise.")
    strategy: Literal["single", "mirrored", "multiworker"] = Field(
        "single", description="Train on one device, on all of this machine, or on all machines of TF_CONFIG."
    )

    @property
    def named(self) -> bool:
        """Whether the data set is one of NAMED_DATASETS, whose image shape its presets know."""
        return self.dataset in NAMED_DATASETS

    @model_validator(mode="after")
    def _check_dataset(self) -> "DataConfig":
        if not self.named and not re.match(r"(tfds|folder):.", self.dataset):
            raise ValueError(
                f"unknown dataset '{self.dataset}'{did_you_mean(self.dataset, NAMED_DATASETS)}: "
                f"give one of {', '.join(NAMED_DATASETS)}, or tfds:NAME, or folder:PATH"
            )
        if self.named and self.image_size is not None:
            raise ValueError(f"image_size {self.image_size} is for tfds: and folder: only: leave it out")
        return self


class TrainConfig(DataConfig):
    """One training run: data, optimisation and model (Table 7)."""

    epochs: int = Field(gt=0, description="Passes over the training set.")
    learning_rate: float = Field(gt=0, description="Learning rate after the warm-up.")
    end_learning_rate: float = Field(ge=0, description="Learning rate at the end of the cosine.")
    warmup_epochs: int = Field(ge=0, description="Epochs of linear warm-up.")
    weight_decay: float = Field(1e-6, ge=0, description="Decoupled weight decay.")
    gradient_clip_norm: float = Field(gt=0, description="Limit of the gradient's global norm.")
    ema_momentum: float = Field(0.999, ge=0, lt=1, description="EMA of the weights; short runs use less.")
    early_stopping_epochs: int = Field(0, ge=0, description="Epochs without progress before a stop; 0: off.")
    validate_raw_weights: bool = Field(False, description="Validate the raw weights, not their EMA.")
    mixed_precision: bool = Field(False, description="Compute in bfloat16.")
    gradient_accumulation: int = Field(1, gt=0, description="Parts that a batch is computed in, for less memory.")
    remat: bool = Field(False, description="Compute blocks again backwards: less memory, more time.")
    jit_compile: bool = Field(False, description="Compile with XLA (strategy single).")
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


def learning_rate_at(
    epoch: int, *, epochs: int, warmup_epochs: int, learning_rate: float, end_learning_rate: float
) -> float:
    """Learning rate of a whole epoch: linear warm-up, then a cosine counted from epoch 0 (Table 7).

    Args:
        epoch: the epoch, counted from 0.
        epochs: epochs in all.
        warmup_epochs: epochs of warm-up; 0 for none.
        learning_rate: the largest rate, reached in the last epoch of the warm-up.
        end_learning_rate: the rate that the cosine approaches.

    Returns:
        The learning rate.
    """
    if epoch < warmup_epochs:
        return learning_rate * (epoch + 1) / warmup_epochs
    cosine = (1 + math.cos(math.pi * epoch / epochs)) / 2
    return end_learning_rate + (learning_rate - end_learning_rate) * cosine


def ema_momentum_for(steps: int, momentum: float = 0.999) -> float:
    """Momentum of the weights' average: that of Table 7, or less where the run is too short for it.

    Args:
        steps: training steps of the whole run.
        momentum: the momentum of a long run.

    Returns:
        `min(momentum, 1 - 10 / steps)`, and 0 (no averaging) below ten steps.
    """
    return max(0.0, min(momentum, 1 - 10 / steps))


def default_model(image_size: int, image_channels: int) -> ModelConfig:
    """A model for images that no preset is made for.

    Grey images get the likelihood and the widths of MNIST, colour images a narrower CIFAR-10 model.

    Args:
        image_size: side of the square images, at least 8 pixels.
        image_channels: 1 (grey) or 3 (colour).

    Returns:
        The model, with four stochastic layers on every scale.

    Raises:
        UserError: if the images are smaller than that or have another number of channels.
    """
    if image_size < 8:
        raise UserError(f"images of side {image_size} are too small: give --image-size 8 or more")
    if image_channels not in (1, 3):
        raise UserError(f"images with {image_channels} channels: convert them to grey (1) or colour (3)")
    scales = _default_scales(image_size, full_size=image_channels == 3 and image_size < 64)
    shape = {"image_size": image_size, "image_channels": image_channels}
    layers = {"scales": scales, "layers_per_scale": (4,) * len(scales)}
    if image_channels == 1:
        return ModelConfig(**shape, **layers)
    return ModelConfig(
        **shape,
        **layers,
        latent_channels=3,
        channels=64,
        hidden_channels=48,
        likelihood="discretized_logistic_mixture",
        gamma_min=-10.0,
    )


def _default_scales(side: int, full_size: bool) -> tuple[int, ...]:
    """Divide by the smallest factor while 4 pixels are left; a side without such a factor stays as it is."""
    scales = [side]
    while (smaller := scales[-1] // _smallest_factor(scales[-1])) >= 4:
        scales.append(smaller)
    return tuple(scales if full_size or len(scales) == 1 else scales[1:])


def _smallest_factor(number: int) -> int:
    return next(factor for factor in range(2, number + 1) if number % factor == 0)


def list_presets() -> list[str]:
    """Names of the presets in `configs/`.

    Returns:
        The names, sorted.
    """
    return sorted(path.stem for path in _presets_folder().glob("*.yaml") if path != search_space_file())


def search_space_file() -> Path:
    """The YAML file beside the presets that says what `python -m dvpvae_tf.tune` searches.

    Returns:
        Path of the file, wherever the package is installed.
    """
    return _presets_folder() / "tuning.yaml"


def find_preset(name: str) -> Path:
    """File of a preset, wherever the package is installed.

    Args:
        name: the name, without `.yaml`.

    Returns:
        Path of the YAML file.

    Raises:
        UserError: if there is no such preset.
    """
    presets = list_presets()
    if name not in presets:
        raise UserError(
            f"unknown preset '{name}'{did_you_mean(name, presets)}: "
            f"give one of {', '.join(presets)}, or the path of a YAML file"
        )
    return _presets_folder() / f"{name}.yaml"


def _presets_folder() -> Path:
    package = Path(__file__).parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise UserError(f"the folder configs is neither in {package} nor beside it: install the package again")


def load_config(name_or_path: str | Path, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """Settings of a preset or of a YAML file, such as the `config.yaml` of a run.

    A file with the key `base` holds only its differences from that preset or file.

    Args:
        name_or_path: name of a preset, or path of a YAML file.
        overrides: settings that win over the file's, e.g. `{"epochs": 5, "model": {"channels": 64}}`.

    Returns:
        The settings. Where neither file nor overrides give a `name`, it is that of the file.

    Raises:
        UserError: if the file cannot be read or a setting is wrong, in one line that names it.
    """
    path = _find_file(name_or_path)
    config = _validate(TrainConfig, {"name": path.stem} | _read_with_base(path), f"{path}: ")
    return _override(config, overrides or {}, "")


def settings_as_yaml(config: TrainConfig) -> str:
    """All settings as YAML that `load_config` reads back to an equal config.

    Args:
        config: the settings.

    Returns:
        The text, keys in the order of their declaration.
    """
    settings = config.model_dump(mode="json")
    return yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, allow_unicode=True)


def write_config(config: TrainConfig, path: str | Path) -> None:
    """Write `settings_as_yaml` to a file.

    Args:
        config: the settings.
        path: the file to write.
    """
    Path(path).write_text(settings_as_yaml(config), encoding="utf-8")


def _find_file(name_or_path: str | Path, folder: Path = Path()) -> Path:
    """A preset, else a file in the folder; a mere word that is no file is taken for an unknown preset."""
    name, path = str(name_or_path), folder / name_or_path
    if name in list_presets() or not (path.exists() or path.suffix or len(Path(name).parts) > 1):
        return find_preset(name)
    return path


def _read_with_base(path: Path, readers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's settings on top of its base's, whose run name is not passed on."""
    if path.resolve() in readers:
        raise UserError(f"{path} is its own base: remove one `base`")
    values = _read(path)
    base = values.pop("base", None)
    if base is None:
        return values
    try:
        base_values = _read_with_base(_find_file(str(base), path.parent), (*readers, path.resolve()))
    except UserError as error:
        raise UserError(f"{path}: base: {error}") from None
    base_values.pop("name", None)
    return _merge(base_values, values)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        presets = ", ".join(list_presets())
        raise UserError(f"{path}: {error.strerror}: give a YAML file or a preset ({presets})") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", see line {mark.line + 1}: {error.problem}" if mark else ": is it a text file?"
        raise UserError(f"{path}: not valid YAML{where}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: should hold settings, one `key: value` on a line")
    return values


def _override(config: TrainConfig, overrides: dict[str, Any], source: str) -> TrainConfig:
    return _validate(TrainConfig, _merge(config.model_dump(), overrides), source)


def _merge(base: dict[str, Any], differences: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in differences.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if nested else value
    return merged


def _validate(settings: type[Settings], values: dict[str, Any], source: str) -> Settings:
    """Check values, telling the first mistake in one line; source stands before its key: `file: ` or `--`."""
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error.errors()[0], settings, source)) from None


def _explain(mistake: Any, settings: type[Settings], source: str) -> str:
    keys = [str(key) for key in mistake["loc"]]
    key = source + ".".join(keys)
    if source == FLAG:
        key = key.replace("_", "-")
    if mistake["type"] == "value_error":
        return f"{source.removeprefix(FLAG)}{mistake['ctx']['error']}"
    if mistake["type"] == "extra_forbidden":
        known = settings if len(keys) == 1 else ModelConfig
        hint = did_you_mean(keys[-1], known.model_fields) or " (--help lists all keys)"
        return f"{key}: unknown key{hint}: correct or remove it"
    if mistake["type"] == "missing":
        return f"{key}: missing: add it, or start from a preset, as with `base: mnist`"
    message = re.sub("^(Input|Tuple|String) ", "", mistake["msg"]).replace("tuple", "list")
    return f"{key}: {mistake['input']!r} {message}"


class TrainArguments(DataConfig):
    """A parsed command line: the settings of the data, and how to get all others once the data are read."""

    config: str | None = Field(None, description="Preset or YAML file; by default the data set's preset.")
    dry_run: bool = Field(False, description="Print the settings and the size of the run, then stop.")
    resume: bool = Field(False, description="Go on from the last checkpoint of the run.")
    overrides: dict[str, Any] = Field({}, description="The settings given on the command line.")

    def resolve(self, image_shape: tuple[int, int, int]) -> TrainConfig:
        """All settings of the run.

        The command line wins over the preset or file. A `tfds:` or `folder:` data set without one is
        trained as MNIST (grey) or CIFAR-10 (colour) is, in batches of 100 and on `default_model`.

        Args:
            image_shape: height, width and channels of the images.

        Returns:
            The settings, with a `name`.

        Raises:
            UserError: if a setting is wrong, or the model is for images of another shape.
        """
        side, width, channels = image_shape
        if side != width:
            raise UserError(f"{self.dataset} has images of {side} x {width}: make them square")
        config = self._start(side, channels)
        if not self.named:
            model = config.model.model_copy(update={"image_size": side, "image_channels": channels})
            config = config.model_copy(update={"model": model})
        config = _override(config, self.overrides, FLAG)
        expected = config.model.image_size, config.model.image_channels
        if expected != (side, channels):
            raise UserError(
                f"{self.dataset} has images of {side} x {side} x {channels} "
                f"but the model is for {expected[0]} x {expected[0]} x {expected[1]}: "
                "change --config, --dataset or --model.image-size"
            )
        return config

    def _start(self, side: int, channels: int) -> TrainConfig:
        if self.config:
            return load_config(self.config)
        model = default_model(side, channels)
        preset = load_config("mnist" if channels == 1 else "cifar10")
        data = {key: getattr(self, key) for key in DataConfig.model_fields}
        name = re.sub(r"\W+", "_", self.dataset).strip("_")
        return preset.model_copy(update={**data, "name": name, "model": model})


def parse_train_arguments(argv: Sequence[str] | None = None) -> TrainArguments:
    """Parse the command line of `python -m dvpvae_tf.train`.

    Every mistake that can be seen before the data are read is told here. `--help` prints and exits.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The settings of the data, the options of the command, and `resolve` for everything else.

    Raises:
        UserError: if an option is unknown or a value is wrong, in one line that names it.
    """
    overrides = _parse_flags(sys.argv[1:] if argv is None else argv)
    options = {key: overrides.pop(key) for key in COMMAND_OPTIONS if key in overrides}
    data = {key: value for key, value in overrides.items() if key in DataConfig.model_fields}
    if options.get("config") is None and (given := _validate(DataConfig, data, FLAG)).named:
        options["config"] = given.dataset
    if options.get("config"):
        data = load_config(options["config"]).model_dump(include=set(DataConfig.model_fields)) | data
    arguments = _validate(TrainArguments, {**data, **options, "overrides": overrides}, FLAG)
    checkable = {key: value for key, value in overrides.items() if arguments.named or key != "model"}
    _override(load_config(arguments.config or "mnist"), checkable, FLAG)
    return arguments


def _parse_flags(argv: Sequence[str]) -> dict[str, Any]:
    """What the command line gives and nothing else, nested as in a file, numbers still as typed."""
    preset = load_config(DEFAULT_DATASET)
    fields = {key: TrainArguments.model_fields[key] for key in COMMAND_OPTIONS} | TrainConfig.model_fields
    flags = {
        key: (field.annotation, Field(getattr(preset, key, field.default), description=field.description))
        for key, field in fields.items()
    }
    parser = Parser(
        "train",
        f"Train a DVP-VAE. Presets: {', '.join(list_presets())}. Defaults: {preset.name}.",
        usage="%(prog)s [--config NAME_OR_FILE] [--dataset DATASET] [any option below]",
    )
    data, training = parser.add_argument_group("data"), parser.add_argument_group("training")

    def add_argument(group: Any, *names: str, dest: str, help: str, **options: Any) -> None:
        if dest in TrainConfig.model_fields and dest != "model":
            group = data if dest in DataConfig.model_fields else training
        group.add_argument(*names, dest=dest, help=help.replace(" (default: null)", ""), **options)

    source = CliSettingsSource(
        create_model("Flags", __base__=BaseSettings, **flags),
        root_parser=parser,
        add_argument_method=add_argument,
        cli_implicit_flags=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_parse_none_str="null",
    )
    try:
        return source(args=list(argv))()
    except SettingsError as error:
        raise UserError(f"{error} (--help lists all options)") from None
