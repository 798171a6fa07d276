"""What a cluster is called: load balancers are marked with it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from lbprov.model import UserError

_NAME = re.compile(r"[a-zA-Z0-9](?:[-_.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?")


def checked_name(name: str) -> str:
    """Raises UserError for a name that no mark could hold."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} is not allowed: at most 63 letters, digits, '-', '_' and '.', "
            "a letter or digit at both ends",
            field="--cluster-name",
        )
    return name


def default_name(directory: Path) -> str:
    """The folder's name and enough of its path to tell two of that name apart."""
    path = directory.resolve()
    base = re.sub(r"[^a-z0-9]+", "-", path.name.lower()).strip("-")[:40].strip("-") or "folder"
    return f"{base}-{hashlib.sha256(str(path).encode('utf-8', 'surrogateescape')).hexdigest()[:6]}"
