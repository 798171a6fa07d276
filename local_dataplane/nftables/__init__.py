"""The forwarding table as nftables: a few fixed chains, and Services as elements of sets and maps. Pure."""
