"""The brakes: what lbprov refuses to do at once unless it is told to (`--force`).

A folder half copied, a label selector mistyped or an API server answering nonsense looks like "all Services
are gone". Whoever means it can say so; nobody else should lose every load balancer to it.
"""

from __future__ import annotations

FREE_DELETIONS = 4
"""So few Services may go at once whatever their share, as long as something stays."""

MAX_SHARE = 0.5


def mass_deletion(gone: int, total: int, *, sound: bool = False, what: str = "Services") -> str | None:
    """Why deleting `gone` of `total` Services (or `what` else) at once is refused, or None where it is not.

    `total` counts them before the deletion. `sound`: the source still has something to say, so that few may
    go even if they are the last ones.
    """
    if gone == 0 or (gone <= FREE_DELETIONS and (sound or gone < total)):
        return None
    if gone <= total * MAX_SHARE:
        return None
    return (
        f"{gone} of {total} {what} are gone at once, which looks like a mistake: nothing was deleted. "
        "Use --force if it is meant."
    )
