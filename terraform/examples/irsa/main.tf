# lbprov by IRSA: any cluster whose issuer is an OIDC provider of the account, EKS or not. Addresses in three zones.
#
#   terraform init && terraform apply -var cluster=prod -var oidc_provider_arn=…
#   terraform output -raw role_arn         # the ServiceAccount's annotation eks.amazonaws.com/role-arn
#   terraform output -json annotations     # what goes onto the Service

terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.40"
    }
  }
}

variable "cluster" {
  description = "The cluster's name as lbprov is given it (LBPROV_CLUSTER_NAME)."
  type        = string
}

variable "oidc_provider_arn" {
  description = "ARN of the IAM OIDC provider of the cluster's issuer."
  type        = string
}

module "lbprov_iam" {
  source = "../../modules/aws-iam"

  cluster_name      = var.cluster
  oidc_provider_arn = var.oidc_provider_arn
}

module "addresses" {
  source = "../../modules/aws-addresses"

  addresses = { web = { zones = 3 } }
}

output "role_arn" {
  description = "The role of the ServiceAccount."
  value       = module.lbprov_iam.role_arn
}

output "annotations" {
  description = "Name => annotation of a Service."
  value       = module.addresses.annotations
}
