"""The command line of `python -m dvpvae_tf.train`."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, create_model
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from dvpvae_tf.config.datasets import DEFAULT_DATASET, NAMED_DATASETS, check_options
from dvpvae_tf.config.default_model import default_model
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.config.presets import list_presets, read_settings
from dvpvae_tf.config.settings import SOURCE_SETTINGS, DataConfig, ModelConfig, TrainConfig
from dvpvae_tf.config.strict import FLAG, StrictSettings, merge, validate
from dvpvae_tf.errors import UserError

OF_ANY_SHAPE = ("prior", "pseudoinput")  # settings of the model that can be checked before the images are read


class CommandOptions(StrictSettings):
    """The options of the command that are no settings of a run."""

    config: str | None = Field(None, description="Preset or YAML file; by default the data set's preset.")
    dry_run: bool = Field(False, description="Print the settings, size, time and memory of the run, then stop.")
    resume: bool = Field(False, description="Go on with a run; what is not given here is read from its folder.")


@dataclass(frozen=True)
class TrainArguments:
    """A parsed command line.

    Attributes:
        options: the options of the command.
        settings: the settings of the run. Those of the model are final only where the data set is named: else the
            shape of the images decides, see `resolve`.
        base: the settings that the command line changes, of a preset, file or run; None for a `tfds:` or `folder:`
            data set without one.
        source: where `base` comes from, for messages.
        overrides: the settings that the command line gives, numbers as typed.
    """

    options: CommandOptions
    settings: TrainConfig
    base: dict[str, Any] | None
    source: str
    overrides: dict[str, Any]

    def resolve(self, image_shape: tuple[int, int, int]) -> TrainConfig:
        """Resolves all settings of the run.

        The command line wins over the preset, file or run. A `tfds:` or `folder:` data set without one is trained as
        MNIST (grey) or CIFAR-10 (colour) is, in batches of 100 and with `default_model`.

        Args:
            image_shape: height, width and channels of the images.

        Returns:
            The settings, with a `name`.

        Raises:
            UserError: if a setting is wrong, or the model is for images of another shape.
        """
        side, width, channels = image_shape
        dataset = self.settings.dataset
        if side != width:
            raise UserError(f"{dataset} has images of {side} x {width}: make them square")
        config = self.settings if self.settings.named else self._settings_for_shape(side, channels)
        expected = config.model.image_size, config.model.image_channels
        if expected != (side, channels):
            raise UserError(
                f"{dataset} has images of {side} x {side} x {channels} "
                f"but the model is for {expected[0]} x {expected[0]} x {expected[1]}: "
                "change --config, --dataset or --model.image-size"
            )
        return config

    def _settings_for_shape(self, side: int, channels: int) -> TrainConfig:
        if self.base is None:
            values, _ = read_settings("mnist" if channels == 1 else "cifar10")
            values |= self.settings.model_dump(include=set(DataConfig.model_fields))
            values |= {"name": _run_name(self.settings.dataset), "model": default_model(side, channels).model_dump()}
        else:
            values = merge(self.base, {"model": {"image_size": side, "image_channels": channels}})
        return validate(TrainConfig, values, self.source, self.overrides, FLAG)


def parse_train_arguments(argv: Sequence[str] | None = None) -> TrainArguments:
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Returns:
        The arguments. Every mistake that can be seen before the images are read has been found.

    Raises:
        UserError: if an option is unknown or a value is wrong, in one line that names it.
    """
    overrides = _parse_flags(sys.argv[1:] if argv is None else argv)
    given = {key: overrides.pop(key) for key in CommandOptions.model_fields if key in overrides}
    options = validate(CommandOptions, given, FLAG)
    base, source = _read_base(options, overrides)
    start = read_settings("mnist")[0] | DataConfig().model_dump() if base is None else base
    known = overrides
    if overrides.get("dataset", start.get("dataset")) not in tuple(NAMED_DATASETS):
        of_any_shape = {key: value for key, value in overrides.get("model", {}).items() if key in OF_ANY_SHAPE}
        known = overrides | {"model": of_any_shape}
    settings = validate(TrainConfig, start, source, known, FLAG)
    of_source = {option: getattr(settings, option) for option in SOURCE_SETTINGS & overrides.keys()}
    check_options(settings.dataset, of_source)
    return TrainArguments(options, settings, base, source, overrides)


def limit_batch_size(config: TrainConfig, training_images: int) -> TrainConfig:
    """Makes the batch of a run no larger than its training set, and prints where it changes.

    Args:
        config: the settings of the run.
        training_images: how many training images there are.

    Returns:
        The settings, with a batch that has `gradient_accumulation` equal parts.

    Raises:
        UserError: if there are fewer images than parts.
    """
    if config.batch_size <= training_images:
        return config
    batch_size = training_images // config.gradient_accumulation * config.gradient_accumulation
    if not batch_size:
        raise UserError(
            f"{training_images} training images cannot be split into {config.gradient_accumulation} parts: "
            "give a smaller --gradient-accumulation"
        )
    print(f"The batch is {batch_size} images, not {config.batch_size}: there are {training_images} to train on")
    return config.model_copy(update={"batch_size": batch_size})


def _read_base(options: CommandOptions, overrides: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The settings that the command line changes, and where they come from."""
    dataset = overrides.get("dataset", DEFAULT_DATASET)
    named = dataset in NAMED_DATASETS
    if options.config is None and options.resume:
        name = overrides.get("name") or (dataset if named else _run_name(dataset))
        folder = Path(overrides.get("output", TrainConfig.model_fields["output"].default)).expanduser() / name
        if (folder / "config.yaml").is_file():
            settings, source = read_settings(folder / "config.yaml")
            return settings | {"name": folder.name, "output": str(folder.parent)}, source
    if options.config is None and not named:
        return None, ""
    return read_settings(options.config or dataset)


def _run_name(dataset: str) -> str:
    return re.sub(r"\W+", "_", dataset).strip("_")


def _parse_flags(argv: Sequence[str]) -> dict[str, Any]:
    """The settings on the command line, nested as in a file. Values are still text."""
    preset, _ = read_settings(DEFAULT_DATASET)
    preset["model"] = ModelConfig(**preset["model"])
    fields = CommandOptions.model_fields | TrainConfig.model_fields
    flags: dict[str, Any] = {
        key: (field.annotation, Field(preset.get(key, field.default), description=field.description))
        for key, field in fields.items()
    }
    parser = Parser(
        "train",
        f"Train a DVP-VAE. Presets: {', '.join(list_presets())}. Defaults: {DEFAULT_DATASET}.",
        usage="%(prog)s [--config NAME_OR_FILE] [--dataset DATASET] [any option below]",
    )
    data, training = parser.add_argument_group("data"), parser.add_argument_group("training")

    def add_argument(group: Any, *names: str, dest: str, help: str, **options: Any) -> None:
        if dest in TrainConfig.model_fields and dest != "model":
            group = data if dest in DataConfig.model_fields else training
        group.add_argument(*names, dest=dest, help=help.replace(" (default: null)", ""), **options)

    source: CliSettingsSource[Any] = CliSettingsSource(
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
