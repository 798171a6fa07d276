"""Fields of the kinds a folder may hold (Kubernetes 1.36), and which kinds those are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lbprov.cluster.manifests.schema import ANY, BOOL, INT, INT_OR_STR, STR, ListOf, MapOf, Shape, Struct


def _ignored(names: str) -> dict[str, Shape]:
    return dict.fromkeys(names.split(), ANY)


METADATA = Struct(
    {
        "name": STR,
        "namespace": STR,
        "labels": MapOf(STR),
        "annotations": MapOf(STR),
        "deletionTimestamp": STR,
        # Of exported objects: the cluster's own, not the author's.
        **_ignored(
            "uid resourceVersion generation creationTimestamp managedFields ownerReferences finalizers "
            "selfLink deletionGracePeriodSeconds generateName"
        ),
    },
    required=("name",),
)

_CONDITIONS = ListOf(Struct({"type": STR, "status": STR}, strict=False))

_SERVICE_SPEC = Struct(
    {
        "type": STR,
        "ports": ListOf(
            Struct(
                {
                    "name": STR,
                    "protocol": STR,
                    "appProtocol": STR,
                    "port": INT,
                    "targetPort": INT_OR_STR,
                    "nodePort": INT,
                },
                required=("port",),
            )
        ),
        "selector": MapOf(STR),
        "clusterIP": STR,
        "clusterIPs": ListOf(STR),
        "ipFamilies": ListOf(STR),
        "ipFamilyPolicy": STR,
        "externalIPs": ListOf(STR),
        "externalName": STR,
        "externalTrafficPolicy": STR,
        "internalTrafficPolicy": STR,
        "trafficDistribution": STR,
        "healthCheckNodePort": INT,
        "publishNotReadyAddresses": BOOL,
        "sessionAffinity": STR,
        "sessionAffinityConfig": Struct({"clientIP": Struct({"timeoutSeconds": INT})}),
        "loadBalancerIP": STR,
        "loadBalancerSourceRanges": ListOf(STR),
        "loadBalancerClass": STR,
        "allocateLoadBalancerNodePorts": BOOL,
    }
)
_SERVICE_STATUS = Struct(
    {
        "loadBalancer": Struct(
            {"ingress": ListOf(Struct({"ip": STR, "hostname": STR, "ipMode": STR, "ports": ANY}))}
        ),
        "conditions": ANY,
    }
)

_CONTAINER = Struct(
    {
        "name": STR,
        "image": STR,
        "restartPolicy": STR,
        "ports": ListOf(
            Struct(
                {
                    "name": STR,
                    "containerPort": INT,
                    "protocol": STR,
                    "hostPort": INT,
                    "hostIP": STR,
                },
                required=("containerPort",),
            )
        ),
        **_ignored(
            "command args workingDir env envFrom resources resizePolicy restartPolicyRules "
            "volumeMounts volumeDevices livenessProbe readinessProbe startupProbe lifecycle "
            "terminationMessagePath terminationMessagePolicy imagePullPolicy securityContext stdin "
            "stdinOnce tty"
        ),
    },
    strict=False,
)
_POD_SPEC = Struct(
    {
        "containers": ListOf(_CONTAINER),
        "initContainers": ListOf(_CONTAINER),
        "nodeName": STR,
        "nodeSelector": MapOf(STR),
        "hostNetwork": BOOL,
        "hostname": STR,
        "subdomain": STR,
        "tolerations": ListOf(
            Struct({"key": STR, "operator": STR, "value": STR, "effect": STR, "tolerationSeconds": ANY})
        ),
        **_ignored(
            "volumes ephemeralContainers restartPolicy terminationGracePeriodSeconds activeDeadlineSeconds "
            "dnsPolicy serviceAccountName serviceAccount automountServiceAccountToken hostPID hostIPC "
            "shareProcessNamespace securityContext imagePullSecrets affinity schedulerName hostAliases "
            "priorityClassName priority dnsConfig readinessGates runtimeClassName enableServiceLinks "
            "preemptionPolicy overhead topologySpreadConstraints setHostnameAsFQDN os hostUsers "
            "schedulingGates resourceClaims resources hostnameOverride workloadRef schedulingGroup"
        ),
    },
    strict=False,
    required=("containers",),
)
_POD_STATUS = Struct(
    {
        "phase": STR,
        "podIP": STR,
        "podIPs": ListOf(Struct({"ip": STR})),
        "conditions": _CONDITIONS,
        **_ignored(
            "observedGeneration message reason nominatedNodeName hostIP hostIPs startTime "
            "initContainerStatuses containerStatuses qosClass ephemeralContainerStatuses resize "
            "resourceClaimStatuses resources allocatedResources extendedResourceClaimStatus"
        ),
    },
    strict=False,
)
_SELECTOR = Struct(
    {
        "matchLabels": MapOf(STR),
        "matchExpressions": ListOf(
            Struct({"key": STR, "operator": STR, "values": ListOf(STR)}, required=("key", "operator"))
        ),
    }
)
_TEMPLATE_METADATA = Struct(dict(METADATA.fields))
_DAEMON_SET_SPEC = Struct(
    {
        "selector": _SELECTOR,
        "template": Struct(
            {"metadata": _TEMPLATE_METADATA, "spec": _POD_SPEC}, required=("metadata", "spec")
        ),
        **_ignored(
            "strategy minReadySeconds revisionHistoryLimit paused progressDeadlineSeconds serviceName "
            "volumeClaimTemplates podManagementPolicy updateStrategy "
            "persistentVolumeClaimRetentionPolicy ordinals"
        ),
    },
    strict=False,
    required=("selector", "template"),
)
_WORKLOAD_SPEC = replace(_DAEMON_SET_SPEC, fields={"replicas": INT, **_DAEMON_SET_SPEC.fields})

_NODE_SPEC = Struct(
    {
        "podCIDR": STR,
        "podCIDRs": ListOf(STR),
        "providerID": STR,
        "unschedulable": BOOL,
        "taints": ListOf(
            Struct({"key": STR, "value": STR, "effect": STR, "timeAdded": ANY}, required=("key", "effect"))
        ),
        **_ignored("externalID configSource"),
    },
    strict=False,
)
_NODE_STATUS = Struct(
    {
        "addresses": ListOf(Struct({"type": STR, "address": STR}, required=("type", "address"))),
        "conditions": _CONDITIONS,
        **_ignored(
            "capacity allocatable phase daemonEndpoints nodeInfo images volumesInUse volumesAttached config "
            "runtimeHandlers features declaredFeatures"
        ),
    },
    strict=False,
)

_NAMED = Struct({"name": STR}, required=("name",))
_ENDPOINT = Struct(
    {
        "addresses": ListOf(STR),
        "conditions": Struct({"ready": BOOL, "serving": BOOL, "terminating": BOOL}),
        "hostname": STR,
        "nodeName": STR,
        "zone": STR,
        "targetRef": Struct({"kind": STR, "namespace": STR, "name": STR}, strict=False),
        "hints": Struct({"forZones": ListOf(_NAMED), "forNodes": ListOf(_NAMED)}),
        "deprecatedTopology": ANY,
    },
    required=("addresses",),
)
_SLICE_PORT = Struct({"name": STR, "protocol": STR, "port": INT, "appProtocol": STR})
_SUBSET_ADDRESS = Struct({"ip": STR, "hostname": STR, "nodeName": STR, "targetRef": ANY}, required=("ip",))


@dataclass(frozen=True, slots=True)
class Kind:
    """`api_version`: the one that is read. `parts`: the top-level fields beside apiVersion and kind."""

    name: str
    api_version: str
    parts: Mapping[str, Shape]
    namespaced: bool = True
    required: tuple[str, ...] = ("metadata",)

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def shape(self) -> Struct:
        fields: dict[str, Shape] = {"apiVersion": STR, "kind": STR, "metadata": METADATA, **self.parts}
        return Struct(fields, required=self.required)


_SPEC = ("metadata", "spec")
KINDS: Mapping[str, Kind] = {
    k.name: k
    for k in (
        Kind("Service", "v1", {"spec": _SERVICE_SPEC, "status": _SERVICE_STATUS}, required=_SPEC),
        Kind("Pod", "v1", {"spec": _POD_SPEC, "status": _POD_STATUS}, required=_SPEC),
        Kind("Node", "v1", {"spec": _NODE_SPEC, "status": _NODE_STATUS}, namespaced=False),
        Kind("Namespace", "v1", {"spec": ANY, "status": ANY}, namespaced=False),
        *(
            Kind(name, "apps/v1", {"spec": _WORKLOAD_SPEC, "status": ANY}, required=_SPEC)
            for name in ("Deployment", "ReplicaSet", "StatefulSet")
        ),
        Kind("DaemonSet", "apps/v1", {"spec": _DAEMON_SET_SPEC, "status": ANY}, required=_SPEC),
        Kind(
            "EndpointSlice",
            "discovery.k8s.io/v1",
            {"addressType": STR, "endpoints": ListOf(_ENDPOINT), "ports": ListOf(_SLICE_PORT)},
            required=("metadata", "addressType"),
        ),
        Kind(
            "Endpoints",
            "v1",
            {
                "subsets": ListOf(
                    Struct(
                        {
                            "addresses": ListOf(_SUBSET_ADDRESS),
                            "notReadyAddresses": ListOf(_SUBSET_ADDRESS),
                            "ports": ListOf(_SLICE_PORT),
                        }
                    )
                )
            },
        ),
    )
}
WORKLOADS = ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet")
