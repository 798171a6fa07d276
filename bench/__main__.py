"""`python -m bench [--services N]`: every figure, in one run."""

from __future__ import annotations

import argparse

from bench import aws_calls, controller, dataplane, dataplane_nftables, kube_proxy, reconcile, startup
from bench.figures import print_rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--services", type=int, default=1000, help="Services to reconcile against moto")
    parser.add_argument("--dataplane-services", type=int, default=10_000, help="Services in the dataplane")
    parser.add_argument("--cluster-services", type=int, default=5000, help="Services on a real API server")
    parser.add_argument("--beside-kube-proxy", default="1000", help="Services beside the real kube-proxy")
    arguments = parser.parse_args()
    print_rows("Command line", startup.rows())
    print_rows("Reconcile from manifests against moto as a server", reconcile.rows(arguments.services))
    print_rows("AWS calls", aws_calls.rows(min(arguments.services, 200)))
    print_rows("Dataplane, iptables", dataplane.rows(arguments.dataplane_services))
    print_rows("Dataplane, nftables", dataplane_nftables.rows(arguments.dataplane_services))
    beside = kube_proxy.rows(tuple(int(part) for part in arguments.beside_kube_proxy.split(",")))
    print_rows("Dataplane beside the real kube-proxy", beside)
    print_rows("Controller on a real API server", controller.rows(arguments.cluster_services))


if __name__ == "__main__":
    main()
