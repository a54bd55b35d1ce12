"""Keeps secrets out of configurations, commands and error messages that are written or shown.

Secrets belong in environment variables. `check` rejects a secret in a configuration; `redact` and `redacted` replace
the values of such variables by `[secret:NAME]`, so that the identity of a run does not depend on its keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import yaml

MARK = "[secret]"
SHORTEST = 8  # characters; shorter values are not looked for in texts
_NAMED: set[str] = set()  # environment variables that the configuration declares as secrets

# Names of secrets: the last word of a key, a header, a query parameter or an environment variable.
_SECRET = re.compile(
    r"(?:^|[._-])(?:\w*api_?key|key|token|secret|password|passwd|pwd|passphrase|authorization|auth|credentials?|cookie"
    r"|signature|sig)$",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"(?:cache|sort|primary|public)_key$|(?:eos|bos|pad|unk|stop|end|start|mask|sep|cls)_token$", re.I)
_SHAPE = re.compile(  # keys of well-known services
    r"(?<=Bearer )(?=\S*\d)[\w.~+/=-]{8,}|(?<=Basic )(?=\S*[\d=])[\w+/=-]{8,}|\b(?:sk|pk|rk)-(?=\S*\d)[\w-]{16,}"
    r"|\bhf_\w{16,}|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{20,}|\bxox[abprs]-[\w-]{10,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{30,}|\bwandb_v1_\w{20,}|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*"
)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
_USER = re.compile(r"(?<=://)([^/\s?#]+)(?=@)")
_PARAMETER = re.compile(r"([?&;#])([^=&;#\s]+)=([^&;#\s]+)")
_ASSIGNED = re.compile(r"([\w.-]+)=(?![\[{$]|\.\.\.|(?:none|null|required|value)\b)[^\s&'\",;)]+", re.IGNORECASE)
_QUOTED = re.compile(r"([\"'])([\w.-]+)\1(\s*:\s*)([\"'])(.+?)\4")
_LINE = re.compile(r"^(\s*)([\w.-]+)(:[ ]+)(?!\$\{|\[secret|(?:none|null|required)$)((?:\w+ )?\S+)$", re.MULTILINE)
_WORDS = ("none", "null", "required")


def know(variable: str) -> None:
    """Declare that an environment variable holds a secret."""
    _NAMED.add(variable)


def is_name(variable: str) -> bool:
    """Whether it can name an environment variable. False for a secret typed in its place."""
    return re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable) is not None and not _SHAPE.search(variable)


def token_in(key: str, variable: str) -> str:
    """The token in the environment variable that the configuration's `key` names.

    Raises ValueError if it is not set or not valid in an HTTP header. The message never shows it.
    """
    if not is_name(variable):  # not shown: it may be the token
        raise ValueError(
            f"{key} must be the name of an environment variable in capitals, not the token itself. "
            f"Fix: export SCORER_TOKEN=..., and {key}=SCORER_TOKEN."
        )
    know(variable)
    token = os.environ.get(variable, "")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        state = "is not set" if not token else "holds blanks, or characters that no HTTP header can hold"
        raise ValueError(f"{key} must name an environment variable that holds a token, and {variable} {state}.")
    return token


def redacted(text: str) -> str:
    """A message, a traceback or a printed configuration without its secrets."""
    text = _in_value(without_known(text))
    text = _ASSIGNED.sub(lambda found: found[0] if not _names_secret(found[1]) else f"{found[1]}={MARK}", text)
    text = _QUOTED.sub(
        lambda found: (
            found[0]
            if not _names_secret(found[2])
            else f"{found[1]}{found[2]}{found[1]}{found[3]}{found[4]}{MARK}{found[4]}"
        ),
        text,
    )
    return _LINE.sub(lambda found: found[0] if not _names_secret(found[2]) else f"{found[1]}{found[2]}: {MARK}", text)


def without_known(text: str, known: Mapping[str, str] | None = None) -> str:
    """Without the values of secret environment variables, and without the passwords of URLs in others.

    `known`: those of `known_secrets()`, if there are many texts.
    """
    for value, variable in (known_secrets() if known is None else known).items():
        if value in text and not _is_file(value):
            text = text.replace(value, f"[secret:{variable}]")
    return text


def known_secrets() -> dict[str, str]:
    """The secrets in environment variables, the longest first, and the variable of each."""
    known = {secret: name for name, value in os.environ.items() for secret in _held(name, value.strip())}
    return {value: known[value] for value in sorted(known, key=len, reverse=True)}


def _held(variable: str, value: str) -> list[str]:
    """The secrets in an environment variable: its value, or the password of a URL such as a proxy's."""
    if variable in _NAMED or _names_secret(variable):
        found = value
    else:
        found = user[1].rpartition(":")[2] if (user := _USER.search(value)) else ""
    return [found] if len(found) >= SHORTEST else []


def redact(value: object, name: str = "") -> object:
    """A configuration, or the value of the key `name` in it, without its secrets."""
    if isinstance(value, Mapping):
        return {key: redact(item, name if _names_secret(name) else str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, name) for item in value]
    if _hidden_by_name(name, value):
        known = without_known(str(value))
        return known if known != value else MARK
    return _in_value(without_known(value)) if isinstance(value, str) else value


def check(keys: Mapping[str, object]) -> None:
    """Raise ValueError if a value is a secret; the message does not show it.

    `keys`: full keys and their values. Values of environment variables (`${oc.env:NAME}`) are allowed.
    """
    known = known_secrets()
    for key, value in keys.items():
        text = without_known(str(value), known)
        by_name = any(map(_names_secret, key.split("."))) and _hidden_by_name("key", value) and "[secret" not in text
        if by_name or (isinstance(value, str) and _in_value(text) != text):
            raise ValueError(
                f"{key}: a secret must not stand in the configuration, which is written to the run's folder and shown. "
                f"Fix: export JUDGE_KEY=... (a name that ends in KEY, TOKEN, SECRET or PASSWORD), and {_remedy(key)}"
            )


def check_typed(overrides: Sequence[str]) -> None:
    """`check` for typed key=value, before Hydra writes it for --multirun. References (`${...}`) are allowed."""
    for override in overrides:
        key, given, value = override.partition("=")
        if given and not key.startswith("-") and "${" not in value:
            try:
                tree = yaml.safe_load(value)
            except yaml.YAMLError:  # Hydra reports it
                tree = value
            check(dict(_leaves(key.lstrip("+~"), tree)))


def _leaves(key: str, tree: object) -> Iterator[tuple[str, object]]:
    if isinstance(tree, Mapping | list):
        for name, item in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _leaves(f"{key}.{name}", item)
    else:
        yield key, tree


def _remedy(key: str) -> str:
    """The key that takes the name of the variable."""
    if key.endswith("_env"):  # the secret in place of its variable's name
        return f"{key}=JUDGE_KEY."
    for ending, instead in (("endpoint.base_url", "endpoint.api_key_env"), ("urls", "token_env")):
        parent, found, rest = key.rpartition(ending)
        if found and (not rest or re.fullmatch(r"\.\d+", rest)):
            return f"{parent}{instead}=JUDGE_KEY."
    return f"'{key}=${{oc.env:JUDGE_KEY}}'."


@lru_cache(maxsize=4096)
def _names_secret(name: str) -> bool:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)  # apiKey
    return _SECRET.search(words) is not None and _PLAIN.search(words) is None


def _hidden_by_name(name: str, value: object) -> bool:
    """Whether a value is secret by its name. Small numbers, flags and hidden values are not."""
    if isinstance(value, bool) or value is None or not _names_secret(name):
        return False
    if isinstance(value, int | float):
        return value >= 100_000
    return bool(value) and value not in _WORDS and not str(value).startswith("[secret")


def _in_value(text: str) -> str:
    """Without known formats of keys, and without users and secret parameters of URLs."""
    return _SHAPE.sub(MARK, _URL.sub(lambda found: _in_url(found[0]), text))


def _in_url(url: str) -> str:
    user = _USER.search(url)
    if user is not None and (":" in user[1] or url.lower().startswith("http")):
        url = _USER.sub(MARK, url, count=1)
    return _PARAMETER.sub(
        lambda found: (
            found[0]
            if found[3].startswith("[secret") or not _names_secret(found[2])
            else f"{found[1]}{found[2]}={MARK}"
        ),
        url,
    )


def _is_file(value: str) -> bool:
    """Whether it is the path of a file, which may hold a secret but is none."""
    with suppress(OSError, ValueError):  # not a valid path
        return Path(value).exists()
    return False
