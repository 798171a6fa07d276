"""A folder of Kubernetes manifests as a cluster in miniature: no API server, no etcd."""

from lbprov.cluster.cluster_name import default_name
from lbprov.cluster.manifests.cluster import ManifestCluster
from lbprov.cluster.manifests.event_log import RecordedEvent

__all__ = ["ManifestCluster", "RecordedEvent", "default_name"]
