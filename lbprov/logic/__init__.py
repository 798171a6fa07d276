"""Pure decisions: which Services are ours, which Nodes are targets, what load balancer a Service wants."""
