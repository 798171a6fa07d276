"""The forwarding table as iptables chains. Pure: what is rendered is written by `local_dataplane.kernel`."""
