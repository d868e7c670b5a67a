"""The on-device gallery: SQLite holds the truth, the search index in memory can be rebuilt at any time."""

from edgeface.gallery.gallery import Gallery
from edgeface.gallery.person import Person, check_name
from edgeface.gallery.vault import key_from_credential, key_from_environment, key_from_file

__all__ = ["Gallery", "Person", "check_name", "key_from_credential", "key_from_environment", "key_from_file"]
