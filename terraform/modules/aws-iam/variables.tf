variable "cluster_name" {
  description = "The cluster's name as lbprov has it (LBPROV_CLUSTER_NAME): what the role may change carries it as a tag."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9 ._:/=+@-]{1,106}$", var.cluster_name))
    error_message = "AWS tags take 1 to 106 letters, digits, spaces and . _ - : / = + @ here."
  }
}

variable "name" {
  description = "Name of the role and of the policy; by default made of the cluster's name."
  type        = string
  default     = null

  validation {
    condition     = var.name == null || can(regex("^[A-Za-z0-9_+=,.@-]{1,64}$", var.name))
    error_message = "IAM takes 1 to 64 letters, digits and _ + = , . @ - as a name."
  }
}

variable "namespace" {
  description = "Namespace of the controller's ServiceAccount."
  type        = string
  default     = "lbprov-system"
}

variable "service_account" {
  description = "The controller's ServiceAccount."
  type        = string
  default     = "lbprov-controller"
}

variable "oidc_provider_arn" {
  description = "For IRSA: ARN of the IAM OIDC provider of the cluster. Null: the role is not for IRSA."
  type        = string
  default     = null

  validation {
    condition     = var.oidc_provider_arn == null || can(regex("^arn:[^:]+:iam::[0-9]+:oidc-provider/.+$", var.oidc_provider_arn))
    error_message = "This is the ARN of an OIDC provider: arn:PARTITION:iam::ACCOUNT:oidc-provider/HOST/PATH."
  }
}

variable "oidc_audience" {
  description = "For IRSA: the audience of the ServiceAccount's tokens."
  type        = string
  default     = "sts.amazonaws.com"
}

variable "eks_cluster_name" {
  description = "For EKS Pod Identity: the cluster's name in EKS. Null: no association is made."
  type        = string
  default     = null
}

variable "create_service_linked_role" {
  description = "Whether the role may make the service-linked role of Elastic Load Balancing, which the first load balancer of an account needs."
  type        = bool
  default     = true
}

variable "adoption" {
  description = "Whether the role may take over what cloud-provider-aws and the AWS Load Balancer Controller have made for this cluster: give it for a migration, and take it back."
  type        = bool
  default     = false
}

variable "path" {
  description = "IAM path of the role and of the policy."
  type        = string
  default     = "/"
}

variable "permissions_boundary" {
  description = "ARN of a permissions boundary for the role, where the account asks for one."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything that this module makes."
  type        = map(string)
  default     = {}
}
