# lbprov on EKS, by Pod Identity, with a fixed address for one Service.
#
#   terraform init && terraform apply -var cluster=prod
#   terraform output -json public_ips      # what goes into the Service's spec.loadBalancerIP

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
  description = "The cluster's name in EKS; lbprov is given the same one (LBPROV_CLUSTER_NAME)."
  type        = string
}

module "lbprov_iam" {
  source = "../../modules/aws-iam"

  cluster_name     = var.cluster
  eks_cluster_name = var.cluster
}

module "addresses" {
  source = "../../modules/aws-addresses"

  addresses = { web = {} }
}

output "public_ips" {
  description = "Name => addresses."
  value       = module.addresses.public_ips
}
