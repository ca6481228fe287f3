"""Strict settings: classes that refuse unknown keys, and one explanation of a mistake for all of them."""

import re
from collections.abc import Iterable
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from dvpvae_tf.errors import UserError, did_you_mean

FLAG = "--"  # stands before the name of a setting that comes from the command line


class StrictSettings(BaseModel):
    """Settings that cannot be changed, refuse unknown keys and hold finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Settings = TypeVar("Settings", bound=StrictSettings)


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merges nested settings.

    Args:
        base: the settings.
        changes: the settings that win. Dictionaries are merged; lists and all other values are replaced.

    Returns:
        The merged settings, as a new dictionary.
    """
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge(base[key], value) if nested else value
    return merged


def validate(
    kind: type[Settings],
    values: dict[str, Any],
    source: str = "",
    overrides: dict[str, Any] | None = None,
    override_source: str = "",
) -> Settings:
    """Checks settings.

    Args:
        kind: the class of the settings.
        values: the settings of a file or preset.
        source: where they come from, printed before the key of a mistake, such as `"mine.yaml: "`.
        overrides: settings that win over `values`.
        override_source: where the overrides come from, such as `FLAG`.

    Returns:
        The settings.

    Raises:
        UserError: for the first mistake, in one line.
    """
    overrides = overrides or {}
    try:
        return kind.model_validate(merge(values, overrides))
    except ValidationError as error:
        mistake = error.errors()[0]
        overridden = overrides and (mistake["type"] == "value_error" or _holds(overrides, mistake["loc"]))
        raise UserError(_explain(mistake, kind, override_source if overridden else source)) from None


def _holds(settings: Any, keys: Iterable[Any]) -> bool:
    for key in keys:
        if not isinstance(settings, dict):
            return True
        if key not in settings:
            return False
        settings = settings[key]
    return True


def _explain(mistake: Any, kind: type[StrictSettings], source: str) -> str:
    keys = [str(key) for key in mistake["loc"]]
    key = source + ".".join(keys)
    if source == FLAG:
        key = key.replace("_", "-")
    if mistake["type"] == "value_error":
        nested = f"{key}: " if keys and keys != ["model"] else source.removeprefix(FLAG)
        return f"{nested}{mistake['ctx']['error']}"
    if mistake["type"] == "extra_forbidden":
        known = _known_keys(kind, keys[:-1])
        hint = did_you_mean(keys[-1], known) or (f" (the keys are {', '.join(known)})" if known else "")
        return f"{key}: unknown key{hint}: correct or remove it"
    if mistake["type"] == "missing":
        from_preset = ", or start from a preset, as with `base: mnist`" if source and len(keys) == 1 else ""
        return f"{key}: missing: add it{from_preset}"
    message = re.sub("^(Input|Tuple|String) ", "", mistake["msg"]).replace("tuple", "list")
    return f"{key}: {mistake['input']!r} {message}" if keys else f"{source}{mistake['input']!r} {message}"


def _known_keys(kind: type[BaseModel], parents: Iterable[str]) -> list[str]:
    """The keys of the settings that are nested in `kind` under `parents`; none under a dictionary or list."""
    for key in parents:
        field = kind.model_fields.get(key)
        annotations = (field.annotation, *get_args(field.annotation)) if field else ()
        nested = [each for each in annotations if isinstance(each, type) and issubclass(each, BaseModel)]
        if not nested:
            return []
        kind = nested[0]
    return list(kind.model_fields)
