"""Credentials taken out of URLs and texts: the one place that knows what a secret looks like."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote

HIDDEN: Final = "[hidden]"
NO_USERS: Final = ("s3://", "s3a://", "gs://", "gcs://")
"""Kinds of URLs that take no `user:password@`: such a part is hidden for good, and opening such a URL is refused."""
_MIN_CHARACTERS: Final = 8  # of a secret; a shorter value may be an ordinary word, and hiding it would garble messages

# Texts may come from a stranger (keys of a run's files, names in a tar): the time that a pattern takes must grow
# linearly with the length of the text.
_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,31}://)(?P<rest>[^\s'\"<>`]*)")
# user:password@, where a password may hold slashes (AWS's do); host:port/path@... is not one
_USERINFO: Final = re.compile(r"(?P<info>[^/?#@:]*:(?!\d{1,5}(?:/|$))[^?#@]*)@")
_SECRET: Final = re.compile(
    r"x-(?:amz|goog)-.*|.*signature.*|sig|.*(?:token|secret|passw|credential|api[_-]?key).*|auth|authorization"
    r"|awsaccesskeyid|googleaccessid|key-pair-id",
    re.IGNORECASE,
)
# Parameters that belong to a signature; without a secret beside them they are ordinary parameters.
_SIGNED: Final = re.compile(r"expires|policy|skoid|sktid|sk[tesv]|s[veprs]|st|spr|srt", re.IGNORECASE)
_NAMES: Final = "secret|token|passw(?:or)?d|credential|signature|authorization|(?:access|api|account)[_-]?key"
# `secret_access_key=...`, `'secret': '...'`, `Authorization: Bearer ...` as they stand in logs and reprs
_PAIR: Final = re.compile(
    rf"(?<![\w-])(?=[\w-]*?(?:{_NAMES}))(?P<name>[\w-]++)(?P<sep>['\"]?\s*+[=:]\s*+)"
    r"(?P<value>'[^']*'|\"[^\"]*\"|(?:Bearer |Basic |AWS[\w-]{0,40} )?[^\s,;&'\"})]+)",
    re.IGNORECASE,
)
_VARIABLE: Final = re.compile(
    r"SECRET|TOKEN|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|ACCOUNT_?KEY|SIGNATURE", re.IGNORECASE
)
_NO_SECRET: Final = re.compile(r"(?:_FILE|_PATH|_URI|_URL|_DIR|_MODE|_PROVIDER)$", re.IGNORECASE)

_userinfo: dict[str, str] = {}  # `https://host:port` -> `user:password`
_queries: dict[str, str] = {}  # public URL -> the query that it came with
_passwords: set[str] = set()  # of URLs; a library may quote them elsewhere


def public_url(url: str) -> str:
    """A URL without its credentials: no `user:password@`, no signature or token in the query.

    This process remembers what was taken out, and `private_url` puts it back: no URL that is stored, sent or shown has
    to hold a secret. A URL without credentials, or a path, stays as it is.
    """
    match = _URL.search(url)
    if match is None:
        return url
    before, rest, query, mark = url[: match.start("rest")], *_without_query(url[match.start("rest") :])
    scheme = match["scheme"]
    info = _USERINFO.match(rest)
    if info is not None:
        rest = rest[info.end() :]
        _remember(info["info"].partition(":")[2])
        if scheme in NO_USERS:
            rest = f"{HIDDEN}@{rest}"
        else:
            _userinfo[scheme + _authority(rest)] = info["info"]
    parts = [part for part in query.split("&") if part]
    public_parts = [part for part in parts if not _SECRET.fullmatch(_name(part))]
    if len(public_parts) == len(parts):
        return f"{before}{rest}{mark}{query}"
    public_parts = [part for part in public_parts if not _SIGNED.fullmatch(_name(part))]
    public = f"{before}{rest}{'?' * bool(public_parts)}{'&'.join(public_parts)}"
    _queries[public] = query
    return public


def private_url(url: str) -> str:
    """The URL with the credentials that `public_url` took out of it in this process; others stay as they are."""
    match = _URL.search(url)
    if match is None:
        return url
    rest = url[match.start("rest") :]
    info = _userinfo.get(match["scheme"] + _authority(rest))
    if url in _queries:
        rest = f"{rest.partition('?')[0]}?{_queries[url]}"
    return f"{url[: match.start('rest')]}{info + '@' if info else ''}{rest}"


def redact(text: str) -> str:
    """A text with every credential in it replaced by `[hidden]`.

    They are recognised by form (`user:password@`, signed queries, `secret=...`, `Authorization: ...`) and by value: the
    secrets in environment variables and in fsspec's configuration, and the passwords that came in URLs.
    """
    # Longest first: one secret may be a part of another.
    for secret in sorted({*_passwords, *_configured()}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _PAIR.sub(_hide_pair, _URL.sub(_hide_in_url, text))


def _hide_in_url(match: re.Match[str]) -> str:
    rest, query, mark = _without_query(match["rest"])
    info = _USERINFO.match(rest)
    if info is not None:
        rest = f"{HIDDEN}@{rest[info.end() :]}"
    parts = [f"{_name(part)}={HIDDEN}" if _SECRET.fullmatch(_name(part)) else part for part in query.split("&")]
    return f"{match['scheme']}{rest}{mark}{'&'.join(parts)}"


def _hide_pair(match: re.Match[str]) -> str:
    value = match["value"]
    if HIDDEN in value or len(value.strip("'\"")) < _MIN_CHARACTERS:
        return match[0]
    quote = value[0] if value[0] in "'\"" else ""
    return f"{match['name']}{match['sep']}{quote}{HIDDEN}{quote}"


def _without_query(rest: str) -> tuple[str, str, str]:
    """(what stands before the query, the query, `?` or nothing) of a URL without its scheme."""
    before, mark, query = rest.partition("?")
    return before, query, mark


def _name(parameter: str) -> str:
    return parameter.partition("=")[0]


def _authority(rest: str) -> str:
    return re.split(r"[/?#]", rest, maxsplit=1)[0]


def _remember(password: str) -> None:
    _passwords.update(text for text in (password, unquote(password)) if len(text) >= _MIN_CHARACTERS)


def _configured() -> Iterator[str]:
    """Secrets of the environment and of fsspec's configuration (`FSSPEC_...`, `~/.config/fsspec`)."""
    for name, value in os.environ.items():
        if _is_secret(name, value):
            yield value
    config = getattr(sys.modules.get("fsspec.config"), "conf", {})
    yield from _secrets_in(config)


def _secrets_in(options: Any) -> Iterator[str]:  # noqa: ANN401 - whatever a configuration file holds
    """Secrets of a nested dictionary of options; `key` is how s3fs calls an access key."""
    for name, value in options.items() if isinstance(options, dict) else ():
        if isinstance(value, str):
            if _is_secret(str(name), value) or (name == "key" and len(value) >= _MIN_CHARACTERS):
                yield value
        else:
            yield from _secrets_in(value)


def _is_secret(name: str, value: str) -> bool:
    named = _VARIABLE.search(name) and not _NO_SECRET.search(name)
    return bool(named) and len(value) >= _MIN_CHARACTERS and not value.startswith(("/", "~"))
