# Elastic IPs that Services ask for: by spec.loadBalancerIP, or by the tag in an annotation. lbprov uses them; it
# never allocates or releases one, so that an address outlives the Service, the load balancer and the cluster.

locals {
  each = merge([
    for name, a in var.addresses : { for zone in range(a.zones) : "${name}/${zone}" => merge(a, { name = name }) }
  ]...)
}

resource "aws_eip" "this" {
  for_each = local.each

  domain               = "vpc"
  address              = each.value.address
  public_ipv4_pool     = each.value.public_ipv4_pool
  network_border_group = each.value.network_border_group

  tags = merge(var.tags, {
    Name                = each.value.name
    "lbprov.io/address" = each.value.name
  })
}
