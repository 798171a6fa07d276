"""The same objects to the real kube-proxy and to our node agent, the same packets through both: who answers,
and whom does it see?

A `Case` is a Service with its endpoints, in one or more states (`case`, `cases`, `generate`). A `World` is a
lab whose two nodes run one proxy in one mode (`world`). `compare` puts cases into the API server that all
worlds follow, asks from everywhere, and judges; what may differ, and why, is in `differences`.
"""
