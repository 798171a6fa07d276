mock_provider "aws" {}

run "one_and_three" {
  variables {
    addresses = { web = {}, dns = { zones = 3 } }
    tags      = { team = "net" }
  }
  assert {
    condition     = toset(keys(aws_eip.this)) == toset(["web/0", "dns/0", "dns/1", "dns/2"])
    error_message = "One address per zone."
  }
  assert {
    condition     = alltrue([for a in aws_eip.this : a.domain == "vpc" && a.tags.team == "net"])
    error_message = "They are addresses of a VPC, tagged."
  }
  assert {
    condition     = length([for a in aws_eip.this : a if a.tags["lbprov.io/address"] == "dns"]) == 3
    error_message = "A Service finds them by this tag."
  }
  assert {
    condition     = length(output.public_ips.web) == 1 && length(output.allocation_ids.dns) == 3
    error_message = "Outputs are by name."
  }
  assert {
    condition = output.annotations.dns["service.beta.kubernetes.io/aws-load-balancer-eip-allocations"] == join(
      ",", [for zone in range(3) : aws_eip.this["dns/${zone}"].allocation_id]
    )
    error_message = "The annotation names all of them."
  }
}

run "an_address_is_not_moved_by_its_neighbours" {
  command = plan
  variables {
    addresses = { api = {}, web = {}, dns = { zones = 3 } }
  }
  assert {
    condition     = contains(keys(aws_eip.this), "web/0") && contains(keys(aws_eip.this), "api/0")
    error_message = "Keys come of names, not of places in a list."
  }
}

run "a_range_of_your_own" {
  command = plan
  variables {
    addresses = { web = { address = "203.0.113.10", public_ipv4_pool = "ipv4pool-ec2-012345" } }
  }
  assert {
    condition     = aws_eip.this["web/0"].address == "203.0.113.10" && aws_eip.this["web/0"].public_ipv4_pool == "ipv4pool-ec2-012345"
    error_message = "A range that was brought is used."
  }
}

run "what_cannot_be" {
  command = plan
  variables {
    addresses = { "a*" = {}, web = { zones = 0 }, dns = { zones = 2, address = "203.0.113.10" } }
    tags      = { "lbprov/cluster" = "lab" }
  }
  expect_failures = [var.addresses, var.tags]
}
