"""Presets and other YAML files of settings: find them, read them, write them."""

from pathlib import Path
from typing import Any

import yaml

from dvpvae_tf.config.settings import TrainConfig
from dvpvae_tf.config.strict import merge, validate
from dvpvae_tf.errors import UserError, did_you_mean


def list_presets() -> list[str]:
    """Lists the presets in `configs/`.

    Returns:
        The names, sorted.
    """
    return sorted(path.stem for path in _presets_folder().glob("*.yaml") if path != search_space_file())


def search_space_file() -> Path:
    """Finds the YAML file of what `python -m dvpvae_tf.tune` searches, beside the presets.

    Returns:
        Path of the file, wherever the package is installed.
    """
    return _presets_folder() / "tuning.yaml"


def find_preset(name: str) -> Path:
    """Finds the file of a preset, wherever the package is installed.

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
    """Reads the settings of a preset or of a YAML file, such as the `config.yaml` of a run.

    A file with the key `base` holds only its differences from that preset or file.

    Args:
        name_or_path: name of a preset, or path of a YAML file.
        overrides: settings that win over the file's, e.g. `{"epochs": 5, "model": {"channels": 64}}`.

    Returns:
        The settings. Where neither file nor overrides give a `name`, the file's name is used.

    Raises:
        UserError: if the file cannot be read or a setting is wrong, in one line that names it.
    """
    values, source = read_settings(name_or_path)
    return validate(TrainConfig, values, source, overrides)


def read_settings(name_or_path: str | Path) -> tuple[dict[str, Any], str]:
    """Reads a preset or a YAML file on top of its base, without checking the settings.

    Args:
        name_or_path: name of a preset, or path of a YAML file.

    Returns:
        The settings, with a `name`, and what to print before a mistake in them: the path and a colon.

    Raises:
        UserError: if the file cannot be read.
    """
    path = _find_file(name_or_path)
    return {"name": path.stem} | _read_with_base(path), f"{path}: "


def settings_as_yaml(config: TrainConfig) -> str:
    """Writes all settings as YAML that `load_config` reads back to an equal config.

    Args:
        config: the settings.

    Returns:
        The text, keys in the order of their declaration.
    """
    settings = config.model_dump(mode="json")
    return yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, allow_unicode=True)


def write_config(config: TrainConfig, path: str | Path) -> None:
    """Writes `settings_as_yaml` to a file.

    Args:
        config: the settings.
        path: the file to write.
    """
    Path(path).write_text(settings_as_yaml(config), encoding="utf-8")


def _find_file(name_or_path: str | Path, folder: Path = Path()) -> Path:
    """A preset, else a file in the folder. A word that names neither is reported as an unknown preset."""
    name, path = str(name_or_path), folder / name_or_path
    if name in list_presets() or not (path.exists() or path.suffix or len(Path(name).parts) > 1):
        return find_preset(name)
    return path


def _read_with_base(path: Path, readers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's settings on top of its base's, whose run name is not passed on."""
    if path.resolve() in readers:
        raise UserError(f"{path} is its own base: remove one `base`")
    values = read_yaml(path, f"a YAML file or a preset ({', '.join(list_presets())})")
    base = values.pop("base", None)
    if base is None:
        return values
    try:
        base_values = _read_with_base(_find_file(str(base), path.parent), (*readers, path.resolve()))
    except UserError as error:
        raise UserError(f"{path}: base: {error}") from None
    base_values.pop("name", None)
    return merge(base_values, values)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that is there twice. PyYAML takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' is there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, expected: str) -> dict[str, Any]:
    """Reads a YAML file of settings.

    Args:
        path: the file.
        expected: what to give instead of a file that cannot be read, for the message.

    Returns:
        The settings, nested as in the file.

    Raises:
        UserError: if the file cannot be read, is not YAML, names a setting twice or holds no settings.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: give {expected}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        where = ": is it a text file?"
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
            where = f", see line {error.problem_mark.line + 1}: {error.problem}"
        raise UserError(f"{path}: not valid YAML{where}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: should hold settings, one `key: value` on a line")
    return values
