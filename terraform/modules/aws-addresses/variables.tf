variable "addresses" {
  description = "The addresses to have, by a name of your choice: what a Service finds them by. `zones`: how many, one per zone of the load balancer. `public_ipv4_pool` or `address`: out of a range that you brought. `network_border_group`: where they are announced, for a range that is not announced in the whole region."
  type = map(object({
    zones                = optional(number, 1)
    public_ipv4_pool     = optional(string)
    address              = optional(string)
    network_border_group = optional(string)
  }))

  validation {
    condition     = alltrue([for name in keys(var.addresses) : can(regex("^[A-Za-z0-9 ._:/=+@-]{1,256}$", name))])
    error_message = "A name is the value of a tag: letters, digits, spaces and . _ - : / = + @."
  }
  validation {
    condition     = alltrue([for a in var.addresses : a.zones >= 1 && a.zones <= 6 && a.zones == floor(a.zones)])
    error_message = "zones is a whole number from 1 to 6."
  }
  validation {
    condition     = alltrue([for a in var.addresses : a.address == null || a.zones == 1])
    error_message = "One address stands in one zone: zones is 1 where address is given."
  }
}

variable "tags" {
  description = "Further tags of the addresses. Those of lbprov's own (lbprov/…) would make the addresses look like something that lbprov made."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key in keys(var.tags) : !startswith(key, "lbprov/")])
    error_message = "Tags that begin with lbprov/ are lbprov's own marks."
  }
}
