"""Keeps secrets out of what is written and shown: configurations, commands and error messages.

A secret belongs into an environment variable. `check` refuses one that stands in a configuration itself; `redact` and
`redacted` replace what such variables hold by `[secret:NAME]`, so that two runs with different keys are the same run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import yaml

MARK = "[secret]"
SHORTEST = 8  # characters of a variable's value that is looked for in texts
_NAMED: set[str] = set()  # environment variables that the configuration names as secrets

# Names whose values are secrets: the last word of a key, a header, a query's parameter or an environment variable.
_SECRET = re.compile(
    r"(?:^|[._-])(?:\w*api_?key|key|token|secret|password|passwd|pwd|passphrase|authorization|auth|credentials?|cookie"
    r"|signature|sig)$",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"(?:cache|sort|primary|public)_key$|(?:eos|bos|pad|unk|stop|end|start|mask|sep|cls)_token$", re.I)
_SHAPE = re.compile(  # what keys of well-known services look like
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
    """The environment variable holds a secret, whatever its name is."""
    _NAMED.add(variable)


def is_name(variable: str) -> bool:
    """Whether it can be the name of an environment variable, and is not a secret that was typed in its place."""
    return re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable) is not None and not _SHAPE.search(variable)


def token_in(key: str, variable: str) -> str:
    """The token in an environment variable, which `key` of the configuration names.

    Raises ValueError if there is none, or none that a header can hold. The message never shows it.
    """
    if not is_name(variable):  # the value is not shown: it may be the token itself
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
    """A message, a traceback or a printed configuration without the secrets in it."""
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


def without_known(text: str) -> str:
    """Without the secrets in environment variables: values whose names say so, and the passwords of addresses."""
    known = {secret: name for name, value in os.environ.items() for secret in _held(name, value.strip())}
    for value in sorted(known, key=len, reverse=True):
        if value in text and not _is_file(value):
            text = text.replace(value, f"[secret:{known[value]}]")
    return text


def _held(variable: str, value: str) -> list[str]:
    """The secrets in an environment variable: all of it, or the password in it, as a proxy's address has one."""
    if variable in _NAMED or _names_secret(variable):
        found = value
    else:
        found = user[1].rpartition(":")[2] if (user := _USER.search(value)) else ""
    return [found] if len(found) >= SHORTEST else []


def redact(value: object, name: str = "") -> object:
    """A configuration, or a part of it under such a name, without the secrets in it."""
    if isinstance(value, Mapping):
        return {key: redact(item, name if _names_secret(name) else str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, name) for item in value]
    if _hidden_by_name(name, value):
        known = without_known(str(value))
        return known if known != value else MARK
    return _in_value(without_known(value)) if isinstance(value, str) else value


def check(keys: Mapping[str, object]) -> None:
    """Raise ValueError for a secret that stands in the configuration itself; the message does not show it.

    `keys`: full keys and their values. What an environment variable holds (`${oc.env:NAME}`) may stand there.
    """
    for key, value in keys.items():
        text = without_known(str(value))
        by_name = any(map(_names_secret, key.split("."))) and _hidden_by_name("key", value) and "[secret" not in text
        if by_name or (isinstance(value, str) and _in_value(text) != text):
            raise ValueError(
                f"{key}: a secret must not stand in the configuration, which is written to the run's folder and shown. "
                f"Fix: export JUDGE_KEY=... (a name that ends in KEY, TOKEN, SECRET or PASSWORD), and {_way(key)}"
            )


def check_typed(overrides: Sequence[str]) -> None:
    """`check` for key=value as it was typed, before Hydra writes it down for --multirun. References are no secrets."""
    for override in overrides:
        key, given, value = override.partition("=")
        if given and not key.startswith("-") and "${" not in value:
            try:
                tree = yaml.safe_load(value)
            except yaml.YAMLError:  # Hydra says what is wrong with it
                tree = value
            check(dict(_leaves(key.lstrip("+~"), tree)))


def _leaves(key: str, tree: object) -> Iterator[tuple[str, object]]:
    if isinstance(tree, Mapping | list):
        for name, item in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _leaves(f"{key}.{name}", item)
    else:
        yield key, tree


def _way(key: str) -> str:
    """Where the name of the variable goes."""
    if key.endswith("_env"):  # the secret itself, in the place of its variable's name
        return f"{key}=JUDGE_KEY."
    for ending, instead in (("endpoint.base_url", "endpoint.api_key_env"), ("urls", "token_env")):
        parent, found, rest = key.rpartition(ending)
        if found and (not rest or re.fullmatch(r"\.\d+", rest)):
            return f"{parent}{instead}=JUDGE_KEY."
    return f"'{key}=${{oc.env:JUDGE_KEY}}'."


def _names_secret(name: str) -> bool:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)  # apiKey
    return _SECRET.search(words) is not None and _PLAIN.search(words) is None


def _hidden_by_name(name: str, value: object) -> bool:
    """Whether it is a secret because of its name. Small numbers, flags and what is hidden already are none."""
    if isinstance(value, bool) or value is None or not _names_secret(name):
        return False
    if isinstance(value, int | float):
        return value >= 100_000
    return bool(value) and value not in _WORDS and not str(value).startswith("[secret")


def _in_value(text: str) -> str:
    """Without what looks like a key, and without the users and the secret parameters of URLs."""
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
    """Whether it is the path of a file with a secret in it."""
    with suppress(OSError, ValueError):  # a key may be no path at all
        return Path(value).exists()
    return False
