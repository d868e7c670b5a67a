"""Typed access to the tables of recipes and manifests."""

from __future__ import annotations

from typing import Any

from edgeface.errors import RecipeError


class Reader:
    """Typed access to one table of a recipe or manifest, with errors that name the file and the key."""

    def __init__(self, document: object, where: str) -> None:
        if not isinstance(document, dict):
            raise RecipeError(f"{where}: expected a table, got {type(document).__name__}")
        self.document: dict[str, Any] = document
        self.where = where

    def _fail(self, key: str, expected: str) -> RecipeError:
        got = repr(self.document[key])[:80] if key in self.document else "nothing"
        return RecipeError(f"{self.where}: {key}: expected {expected}, got {got}")

    def text(self, key: str, *, empty: bool = False) -> str:
        value = self.document.get(key, "" if empty else None)
        if not isinstance(value, str) or not (value or empty) or "\0" in value:
            raise self._fail(key, "a text")
        return value

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.document.get(key)
        if not isinstance(value, str) or value not in allowed:
            raise self._fail(key, "one of " + ", ".join(allowed))
        return value

    def file_name(self, key: str) -> str:
        value = self.text(key)
        if "/" in value or "\\" in value or value in (".", ".."):
            raise self._fail(key, "a file name without folders")
        return value

    def sha256(self, key: str) -> str:
        value = self.document.get(key)
        if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise self._fail(key, "64 hexadecimal digits in lower case")
        return value

    def integer(self, key: str, *, low: int, high: int = 1 << 53) -> int:
        value = self.document.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._fail(key, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        value = self.document.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise self._fail(key, f"a number from {low} to {high}")
        return float(value)

    def _numbers(self, key: str, value: object, count: int) -> tuple[float, ...]:
        if (
            not isinstance(value, (list, tuple))
            or len(value) != count
            # Not isfinite: it raises on a whole number that is too large for a float.
            or any(isinstance(v, bool) or not isinstance(v, (int, float)) or not abs(v) <= 1e30 for v in value)
        ):
            raise self._fail(key, f"{count} numbers")
        return tuple(float(v) for v in value)

    def triple(self, key: str) -> tuple[float, float, float]:
        r, g, b = self._numbers(key, self.document.get(key), 3)
        return r, g, b

    def vector(self, key: str, count: int) -> tuple[float, ...]:
        return self._numbers(key, self.document.get(key), count)

    def size(self, key: str) -> tuple[int, int]:
        value = self.document.get(key)
        height, width = self._numbers(key, value, 2)
        if not (8 <= height <= 8192 and 8 <= width <= 8192 and height % 1 == 0 and width % 1 == 0):
            raise self._fail(key, "height and width from 8 to 8192")
        return int(height), int(width)

    def points(self, key: str, count: int) -> tuple[tuple[float, float], ...]:
        value = self.document.get(key, [])
        if not isinstance(value, list) or len(value) != count:
            raise self._fail(key, f"{count} points (x, y)")
        pairs = [self._numbers(key, point, 2) for point in value]
        return tuple((x, y) for x, y in pairs)

    def strings(self, key: str) -> dict[str, str]:
        value = self.document.get(key)
        if not isinstance(value, dict) or not value or not all(isinstance(v, str) and v for v in value.values()):
            raise self._fail(key, "a table of texts")
        return dict(value)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.document.get(key)
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) and v for v in value):
            raise self._fail(key, "a list of texts")
        return tuple(value)

    def table(self, key: str) -> Reader:
        return Reader(self.document.get(key), f"{self.where}.{key}")

    def only(self, allowed: set[str]) -> None:
        """Refuse keys that nobody would read: a misspelt option must not be silently ignored."""
        unknown = sorted(set(self.document) - allowed)
        if unknown:
            raise RecipeError(f"{self.where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(allowed))}")
