"""Which board this is: model, JetPack, power mode, read from files that NVIDIA's images have. No GPU, no commands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

#: L4T release -> JetPack, where no `nvidia-jetpack` package says it. Source: NVIDIA's Jetson Linux archive.
JETPACK_OF_L4T = {"36.3": "6.0", "36.4.0": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1", "38.2": "7.0"}


@dataclass(frozen=True)
class Board:
    """A Jetson board.

    Attributes:
        model: such as ``NVIDIA Jetson Orin Nano Developer Kit``.
        l4t: release of Jetson Linux, such as ``36.4.3``; empty when not found.
        jetpack: such as ``6.2``; empty when not found.
        power_mode: number of the nvpmodel mode, as `nvpmodel -q` shows it; empty when not found.
    """

    model: str
    l4t: str
    jetpack: str
    power_mode: str

    @property
    def slug(self) -> str:
        """The model without spaces, as `edgeface build` writes it into manifests."""
        return self.model.replace(" ", "-").replace("/", "-")

    def runs(self, jetpack: str) -> bool:
        """Whether that is this JetPack: a version, or the line of /etc/nv_tegra_release that names its L4T."""
        l4t = _l4t(jetpack)
        if l4t:
            return not self.l4t or l4t == self.l4t
        return not self.jetpack or jetpack == self.jetpack


def read_board(root: Path = Path("/")) -> Board | None:
    """The board under the file system `root`, or None where that is no Jetson."""
    release = _text(root / "etc/nv_tegra_release")
    model = _text(root / "proc/device-tree/model").rstrip("\0\n")
    if not release and "Jetson" not in model:
        return None
    l4t = _l4t(release)
    mode = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    return Board(
        model=model or "unknown Jetson",
        l4t=l4t,
        jetpack=_jetpack_package(root) or _jetpack_of(l4t),
        power_mode=str(int(mode[1])) if mode else "",
    )


def _l4t(release: str) -> str:
    """``36.4.3`` from ``# R36 (release), REVISION: 4.3, ...``; empty from anything else."""
    found = re.search(r"R(\d+)[^,]*,\s*REVISION:\s*([\d.]+)", release)
    return f"{found[1]}.{found[2]}" if found else ""


def _jetpack_package(root: Path) -> str:
    """Version of Debian's `nvidia-jetpack` package without its build: ``6.2+b77`` is ``6.2``."""
    status = _text(root / "var/lib/dpkg/status")
    found = re.search(r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: ([\d.]+)", status, re.MULTILINE)
    return found[1] if found else ""


def _jetpack_of(l4t: str) -> str:
    fits = [known for known in JETPACK_OF_L4T if l4t == known or l4t.startswith(known + ".")]
    return JETPACK_OF_L4T[max(fits, key=len)] if fits else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
