"""AWS: a Network Load Balancer per Service. This module imports no SDK; `build` does."""

from __future__ import annotations

from lbprov.api import Provider, ProviderContext, ProviderSpec
from lbprov_aws.config import OPTIONS
from lbprov_aws.reasons import REASONS
from lbprov_aws.resources import Observed


def _build(context: ProviderContext) -> Provider[Observed]:
    from lbprov_aws.provider import AwsProvider

    return AwsProvider(context)


SPEC = ProviderSpec(
    name="aws",
    load_balancer_class="lbprov.io/aws",
    summary="AWS: a Network Load Balancer per Service",
    build=_build,
    extra="lbprov[aws]",
    options=OPTIONS,
    in_flight_s=15.0,
    keeps_unread=True,
    reasons=REASONS,
)
