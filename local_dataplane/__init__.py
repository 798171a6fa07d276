"""One node's own Service forwarding: what kube-proxy does, as observe → plan → apply.

`table` decides (pure), `iptables` and `nftables` render (pure), `kernel` is the only IO, `agent` is the loop.
"""
