"""One node's own Service forwarding: what kube-proxy does, as observe → plan → apply.

`table` decides (pure), `iptables` renders (pure), `kernel` is the only IO, `agent` is the loop.
"""
