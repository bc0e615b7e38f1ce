"""TOML becomes a frozen value, once."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, JsonValue, ValidationError

from federation.errors import ConfigError
from federation.values import Value

T = TypeVar("T", bound=Value)


def read_document(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a TOML file holds, with ``key.inner=value`` put over it: a TOML value, or a word.

    Raises :class:`ConfigError` for a missing file, bad TOML, or an override that is none.
    """
    document = _read_toml(path)
    for override in overrides:
        _apply(document, override)
    return document


def validate(kind: type[T], document: Mapping[str, Any], name: str) -> T:
    """The value of a document, ``name`` of which stands in errors. Raises :class:`ConfigError`."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        problems = [_explain(kind, problem) for problem in error.errors()]
        raise ConfigError(f"{name}: " + "; ".join(problems)) from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; expected a TOML document there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no valid TOML: {error}") from error


def _apply(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r} is no override; expected key=value, as rounds=5")
    try:
        value: JsonValue = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word: data=phantom, training.loss=dice
    *parents, last = key.split(".")
    table = document
    for parent in parents:
        inner = table.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {parent} is a value, not a table")
        table = inner
    table[last] = value


def _explain(kind: type[BaseModel], problem: Any) -> str:
    path = ".".join(str(step) for step in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *parents, unknown = problem["loc"]
        nearest = difflib.get_close_matches(str(unknown), _keys_at(kind, parents), n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        return f"unknown key {path!r}{hint}"
    if problem["type"] == "missing":
        return f"key {path!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    seen = problem["input"]
    shown = f" (seen: {seen!r})" if isinstance(seen, str | int | float | bool) else ""
    return f"{path or 'document'}: {message}{shown}"


def _keys_at(kind: type[BaseModel], parents: Sequence[str | int]) -> list[str]:
    """The valid keys of the table at ``parents``, found by walking the document's types."""
    current: Any = kind
    for step in parents:
        field = current.model_fields.get(step) if _is_table(current) else None
        candidates = _tables_in(field.annotation) if field else []
        if field is None or not candidates:
            continue  # a key of a dict such as [data.NAME]: stay with its values' type
        current = candidates[0]
    return list(current.model_fields) if _is_table(current) else []


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _tables_in(annotation: Any) -> list[type[BaseModel]]:
    if _is_table(annotation):
        return [cast(type[BaseModel], annotation)]
    return [t for inner in getattr(annotation, "__args__", ()) for t in _tables_in(inner)]
