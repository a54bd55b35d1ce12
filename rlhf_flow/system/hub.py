"""Names on the hub, told from paths, so that one that does not exist is refused before the hub is asked; its errors."""

from __future__ import annotations

from pathlib import Path

from rlhf_flow.system.errors import ConfigError


def is_hub_name(name: str) -> bool:
    """Whether it has the form of a name on the hub: owner/name, or a name alone, as `gpt2`."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def hub_errors() -> tuple[type[Exception], ...]:
    """What a request to the hub may raise: OSError, and the errors of the HTTP library of its client's version."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)))


def check_model(key: str, value: str) -> None:
    """Raise ConfigError if `value` is neither a folder nor has the form of a name on the hub."""
    if not Path(value).is_dir() and not is_hub_name(value):
        raise missing_model(key, value)


def check_dataset(key: str, value: str) -> None:
    """Raise ConfigError if `value` does not exist and has not the form of a name on the hub."""
    if not Path(value).exists() and not is_hub_name(value):
        raise _missing(key, value, "the folder of a data set, or a data set on the hub as owner/name")


def missing_model(key: str, value: str) -> ConfigError:
    """The error for the path of a model that does not exist."""
    return _missing(key, value, "the folder of a Hugging Face checkpoint, or a model on the hub as owner/name")


def _missing(key: str, value: str, wanted: str) -> ConfigError:
    remedy = f"name {wanted}"
    if value.startswith("~") and (meant := Path(value).expanduser()).exists():  # no shell expands it after key=
        remedy = f"{key}={meant}"
    return ConfigError(f"{key}={value}: no such folder", remedy)
