"""A folder of Kubernetes manifests as a cluster in miniature: no API server, no etcd."""

from lbprov.cluster.manifests.cluster import ManifestCluster, RecordedEvent, default_name

__all__ = ["ManifestCluster", "RecordedEvent", "default_name"]
