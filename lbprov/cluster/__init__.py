"""Where Services come from and where results go."""

from lbprov.cluster.seam import Cluster, Problem, Snapshot

__all__ = ["Cluster", "Problem", "Snapshot"]
