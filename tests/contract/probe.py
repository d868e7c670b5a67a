"""Says what a package lacks of a list of names and parameters. Run by `test_bindings.py` in a process of its own."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from typing import Any


def parameters_of(thing: Any) -> list[str] | None:
    """Parameters of every overload, or None where the thing tells none (pybind11 hides some signatures)."""
    text = re.sub(r"C\+\+ signature :\n.*", "", getattr(thing, "__doc__", None) or "")
    name = getattr(thing, "__name__", "")
    if not name:
        return None
    found: list[str] = []
    known = False
    # pybind11: name(self: T, a: int = 0) -> R; boost.python: name( (T)arg1, (int)dest [, (object)stream=None]) -> R
    for signature in re.findall(rf"\b{name}\(((?:[^()]|\([^()]*\))*)\)", text):
        if "*args" in signature:
            continue
        known = True
        found += re.findall(r"(\w+)(?=:)", signature) + re.findall(r"\(\w[\w.]*\)(\w+)", signature)
    try:
        found += list(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        if not known:
            return re.findall(r":arg (\w+):", text) or None
    return found + re.findall(r":arg (\w+):", text)


def main() -> None:
    package = importlib.import_module(sys.argv[1])
    lacking = []
    for name, parameters in json.load(sys.stdin).items():
        thing: Any = package
        for part in name.split("."):
            thing = getattr(thing, part, None)
            if thing is None:
                break
        if thing is None:
            lacking.append(f"{name}: no such name")
            continue
        known = parameters_of(thing) if parameters else None
        positional = known is None or all(re.fullmatch(r"arg\d+", each) for each in known)
        if not positional:
            lacking += [f"{name}: no parameter {each!r}" for each in parameters if each not in (known or [])]
        elif known and len(known) < len(parameters):
            lacking.append(f"{name}: {len(known)} parameters, {len(parameters)} are given")
    json.dump(lacking, sys.stdout)


if __name__ == "__main__":
    main()
