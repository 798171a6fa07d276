"""lbprov provisions load balancers for Kubernetes Services: on AWS, on Google Cloud, on bare metal.

Start reading at `lbprov.model` (what is talked about), then `lbprov.api` (what a provider is), then
`lbprov.controller.reconcile` (how one Service is carried from what should be to what is).
"""

__version__ = "0.1.0"
