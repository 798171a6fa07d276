"""Rules of TLS listeners and their certificates."""

from __future__ import annotations

from typing import Any

from moto.elbv2 import responses

from lbprov.lab.aws.call import Call, Refusal
from lbprov.lab.aws.rule import API, GUIDE, elbv2, rule

_ALPN = frozenset({"HTTP1Only", "HTTP2Only", "HTTP2Optional", "HTTP2Preferred", "None"})
CERTIFICATES_PER_LISTENER = 25
"""Beside the default one ("Quotas for your Network Load Balancers")."""


@rule(
    "TLS listeners have a certificate",
    GUIDE.format("create-tls-listener"),
    "CreateListener",
)
def _tls_listener(call: Call) -> None:
    check_tls(call, call.get("Protocol"))


def check_tls(call: Call, protocol: str, *, changed_to: bool = True) -> None:
    """`protocol` of the listener as it will be; `changed_to`: by this call (then it needs a certificate)."""
    certificates = [c["CertificateArn"] for c in call.structs("Certificates.member")]
    alpn, policy = call.items("AlpnPolicy.member"), call.get("SslPolicy")
    if protocol != "TLS":
        if certificates or alpn or policy:
            raise Refusal(
                "InvalidConfigurationRequest",
                f"A listener for {protocol} has no certificates, security policy or ALPN policy",
            )
        return
    if len(certificates) > 1:
        raise Refusal("TooManyCertificates", "You can specify one default certificate")
    if not certificates and changed_to:
        raise Refusal("CertificateNotFound", "A certificate must be specified for TLS listeners")
    check_certificates(call, certificates)
    if policy and policy not in vars(responses)["SSL_POLICIES"]:
        raise Refusal("SSLPolicyNotFound", f"SSL policy '{policy}' not found")
    if set(alpn) - _ALPN or len(alpn) > 1:
        raise Refusal("ALPNPolicyNotSupported", f"ALPN policy {alpn} is not supported")


def check_certificates(call: Call, arns: list[str]) -> None:
    for arn in arns:
        if not elbv2(call)._certificate_exists(arn):
            raise Refusal("CertificateNotFound", f"Certificate '{arn}' not found")


def speak(listener: Any, call: Call) -> None:
    """Take over what a change of a listener says about TLS; one that is none any more forgets it all."""
    if listener.protocol != "TLS":
        listener.certificate, listener.certificates, listener.alpn_policy = None, [], []
        return
    if certificates := [c["CertificateArn"] for c in call.structs("Certificates.member")]:
        (default,) = certificates
        more = [c for c in listener.certificates[1:] if c != default]
        listener.certificate, listener.certificates = default, [default, *more]
    if policy := call.get("SslPolicy"):
        listener.ssl_policy = policy
    if alpn := call.items("AlpnPolicy.member"):
        listener.alpn_policy = alpn


@rule(
    "certificates of a TLS listener",
    API.format("AddListenerCertificates"),
    "AddListenerCertificates",
    "RemoveListenerCertificates",
)
def _more_certificates(call: Call) -> None:
    listener = next(
        (
            b.listeners[call.get("ListenerArn")]
            for b in elbv2(call).load_balancers.values()
            if call.get("ListenerArn") in b.listeners
        ),
        None,
    )
    if listener is None:
        raise Refusal("ListenerNotFound", "One or more listeners not found")
    if listener.protocol != "TLS":
        raise Refusal(
            "InvalidConfigurationRequest", f"A listener for {listener.protocol} has no certificates"
        )
    arns = [c["CertificateArn"] for c in call.structs("Certificates.member")]
    if call.operation == "RemoveListenerCertificates":
        if listener.certificate in arns:
            raise Refusal("OperationNotPermitted", "The default certificate cannot be removed")
        return
    check_certificates(call, arns)
    if len(set(listener.certificates[1:]) | set(arns)) > CERTIFICATES_PER_LISTENER:
        raise Refusal("TooManyCertificates", "You've reached the limit on certificates per listener")


@rule(
    "no datagrams with dual stack",
    API.format("CreateListener"),
    "CreateListener",
)
def _dual_stack_listener(call: Call) -> None:
    balancer = elbv2(call).load_balancers.get(call.get("LoadBalancerArn"))
    if balancer is not None:
        check_families(balancer.ip_address_type, call.get("Protocol"))


def check_families(ip_address_type: str, protocol: str) -> None:
    if ip_address_type == "dualstack" and protocol in ("UDP", "TCP_UDP"):
        raise Refusal(
            "InvalidConfigurationRequest",
            f"Protocol {protocol} is not supported for dual-stack load balancers",
        )
