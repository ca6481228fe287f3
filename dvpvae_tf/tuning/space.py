"""The search space: a range or a list of choices for each setting, and the settings of a trial."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dvpvae_tf.config import ModelConfig, StrictSettings, TrainConfig, read_yaml, search_space_file, validate
from dvpvae_tf.errors import UserError

FIT_THE_IMAGES = ("latent_layout", "pseudoinput_size")  # choices that do not are left out


class Range(StrictSettings):
    """The real numbers from `min` to `max`, drawn uniformly, or uniformly in their logarithm."""

    min: float = Field(gt=0)
    max: float = Field(gt=0)
    sampling: Literal["linear", "log"] = "log"

    @model_validator(mode="after")
    def _check_order(self) -> "Range":
        if self.min >= self.max:
            raise ValueError(f"min {self.min} must be less than max {self.max}")
        return self


_Count = Annotated[int, Field(gt=0)]
_Counts = Annotated[tuple[_Count, ...], Field(min_length=1)]
_Layout = Annotated[dict[_Count, _Count], Field(min_length=1)]


class Space(StrictSettings):
    """The ranges of a search. Settings that are left out keep their value."""

    learning_rate: Range | None = None
    gradient_clip_norm: Range | None = None
    ema_momentum: Range | None = None
    channels: _Counts | None = None
    hidden_channels: _Counts | None = None
    latent_layout: Annotated[tuple[_Layout, ...], Field(min_length=1)] | None = None
    pseudoinput: Annotated[tuple[Literal["dct", "downsample", "learnable"], ...], Field(min_length=1)] | None = None
    pseudoinput_size: _Counts | None = None
    prior_channels: _Counts | None = None
    prior_blocks: _Counts | None = None


Choices = dict[str, Range | list[Any]]  # by the name of the setting, as KerasTuner holds them


def read_space(path: str | Path | None = None) -> Space:
    """Reads what is searched.

    Args:
        path: a YAML file; None takes `configs/tuning.yaml`.

    Returns:
        The search space.

    Raises:
        UserError: if it cannot be read, or a key or range is wrong, in one line that names it.
    """
    path = Path(path or search_space_file())
    return validate(Space, read_yaml(path, "the YAML file of a search space"), f"{path}: ")


def config_with(config: TrainConfig, values: dict[str, Any]) -> TrainConfig:
    """Gives the settings of a trial.

    Args:
        config: the settings that are not searched.
        values: the values that were drawn, as KerasTuner holds them. Its own keys are ignored.

    Returns:
        The settings. Real numbers are rounded to six digits, so that all computers of a search agree on them.

    Raises:
        UserError: if the values do not go together.
    """
    changes: dict[str, Any] = {}
    model: dict[str, Any] = {}
    for name, value in values.items():
        if name == "latent_layout":
            model |= _parse_layout(value)
        elif name in ModelConfig.model_fields:
            model[name] = value
        elif name in TrainConfig.model_fields:
            changes[name] = float(f"{value:.6g}")
    return validate(TrainConfig, config.model_dump(), overrides={**changes, "model": model})


def find_choices(space: Space, config: TrainConfig) -> Choices:
    """Lists what is searched and fits the images.

    Args:
        space: the search space.
        config: the settings that are not searched.

    Returns:
        A range or a list for each setting.

    Raises:
        UserError: if nothing is left, or a value cannot go with the other settings.
    """
    kept: Choices = {}
    for name, choices in space:
        if isinstance(choices, Range):
            for end in (choices.min, choices.max):
                config_with(config, {name: end})
            kept[name] = choices
        elif choices is not None:
            values = [_write_layout(value) if name == "latent_layout" else value for value in choices]
            kept[name] = [value for value in values if _is_valid(config, name, value)]
            if not kept[name]:
                raise UserError(
                    f"{name}: none of {', '.join(map(str, values))} fits images of side {config.model.image_size}"
                )
    if not kept:
        raise UserError("the search space is empty: name at least one setting")
    return kept


def _is_valid(config: TrainConfig, name: str, value: Any) -> bool:
    try:
        config_with(config, {name: value})
    except UserError:
        if name in FIT_THE_IMAGES:
            return False
        raise
    return True


def _write_layout(layout: dict[int, int]) -> str:
    """A latent layout as KerasTuner can hold it: "14:4 7:4" for four layers of side 14 and four of side 7."""
    return " ".join(f"{side}:{layers}" for side, layers in layout.items())


def _parse_layout(text: str) -> dict[str, tuple[int, ...]]:
    sides, layers = zip(*(map(int, part.split(":")) for part in text.split()), strict=True)
    return {"scales": sides, "layers_per_scale": layers}
