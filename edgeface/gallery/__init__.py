"""The on-device gallery: SQLite holds the truth, the search index in memory can be rebuilt at any time."""

from edgeface.gallery.gallery import Gallery
from edgeface.gallery.person import Person

__all__ = ["Gallery", "Person"]
