"""A real API server behind the cluster seam: watched, decoded into the model, patched where it is ours."""

from lbprov.cluster.apiserver.cluster import ApiCluster
from lbprov.cluster.apiserver.lease import LeaderElector
from lbprov.cluster.apiserver.store import Store

__all__ = ["ApiCluster", "LeaderElector", "Store"]
