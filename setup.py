"""Builds the native module. Everything else about the package stands in pyproject.toml."""

from setuptools import setup

PACKAGES = {
    "edgeface": "edgeface",
    "edgeface.gallery": "edgeface/gallery",
    "edgeface.runtime": "edgeface/runtime",
    "edgeface.engines": "engines",
    "edgeface.tools": "tools",
    "edgeface.tools.bench": "tools/bench",
}

setup(
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={
        "edgeface": ["py.typed"],
        "edgeface.engines": ["recipes/*.toml"],
        "edgeface.tools": ["demo_photos/*"],
    },
)
