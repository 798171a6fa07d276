output "public_ips" {
  description = "Name => its addresses. A single one is what spec.loadBalancerIP takes."
  value       = { for name, a in var.addresses : name => [for zone in range(a.zones) : aws_eip.this["${name}/${zone}"].public_ip] }
}

output "allocation_ids" {
  description = "Name => allocation ids of its addresses."
  value       = { for name, a in var.addresses : name => [for zone in range(a.zones) : aws_eip.this["${name}/${zone}"].allocation_id] }
}

output "annotations" {
  description = "Name => the annotation by which a Service takes all of its addresses, one per zone."
  value = { for name, a in var.addresses : name => {
    "service.beta.kubernetes.io/aws-load-balancer-eip-allocations" = join(
      ",", [for zone in range(a.zones) : aws_eip.this["${name}/${zone}"].allocation_id]
    )
  } }
}
