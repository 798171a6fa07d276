# What lbprov's AWS provider may do, and who may do it. Every change is bound to the cluster's tag.

data "aws_partition" "current" {}

locals {
  name = coalesce(var.name, substr("lbprov-${replace(var.cluster_name, "/[^A-Za-z0-9_+=,.@-]/", "-")}", 0, 64))

  names = {
    partition    = data.aws_partition.current.partition
    cluster_name = var.cluster_name
  }
  policy   = jsondecode(templatefile("${path.module}/policy.json", local.names))
  adoption = jsondecode(templatefile("${path.module}/adoption.json", local.names))

  service_linked_role = {
    Sid       = "MakeTheRoleOfElasticLoadBalancing"
    Effect    = "Allow"
    Action    = ["iam:CreateServiceLinkedRole"]
    Resource  = "*"
    Condition = { StringEquals = { "iam:AWSServiceName" = "elasticloadbalancing.amazonaws.com" } }
  }

  # Host and path of the issuer: what IAM's condition keys begin with.
  oidc_issuer = var.oidc_provider_arn == null ? "" : split(":oidc-provider/", var.oidc_provider_arn)[1]

  trust = concat(
    var.oidc_provider_arn == null ? [] : [jsonencode({
      Sid       = "IRSA"
      Effect    = "Allow"
      Action    = "sts:AssumeRoleWithWebIdentity"
      Principal = { Federated = var.oidc_provider_arn }
      Condition = { StringEquals = {
        "${local.oidc_issuer}:aud" = var.oidc_audience
        "${local.oidc_issuer}:sub" = "system:serviceaccount:${var.namespace}:${var.service_account}"
      } }
    })],
    var.eks_cluster_name == null ? [] : [jsonencode({
      Sid       = "PodIdentity"
      Effect    = "Allow"
      Action    = ["sts:AssumeRole", "sts:TagSession"]
      Principal = { Service = "pods.eks.amazonaws.com" }
    })],
  )
}

resource "aws_iam_policy" "this" {
  name        = local.name
  path        = var.path
  description = "Load balancers of the Kubernetes cluster ${var.cluster_name}, by lbprov"
  tags        = var.tags

  policy = jsonencode({
    Version = local.policy.Version
    Statement = concat(
      local.policy.Statement,
      [for statement in local.adoption : statement if var.adoption],
      [for statement in [local.service_linked_role] : statement if var.create_service_linked_role],
    )
  })
}

# Without anybody who could take it, there is no role: attach the policy to one of your own.
resource "aws_iam_role" "this" {
  count = length(local.trust) > 0 ? 1 : 0

  name                 = local.name
  path                 = var.path
  description          = "lbprov in the Kubernetes cluster ${var.cluster_name}"
  permissions_boundary = var.permissions_boundary
  tags                 = var.tags

  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [for statement in local.trust : jsondecode(statement)]
  })
}

resource "aws_iam_role_policy_attachment" "this" {
  count = length(aws_iam_role.this)

  role       = aws_iam_role.this[0].name
  policy_arn = aws_iam_policy.this.arn
}

resource "aws_eks_pod_identity_association" "this" {
  count = var.eks_cluster_name == null ? 0 : 1

  cluster_name    = var.eks_cluster_name
  namespace       = var.namespace
  service_account = var.service_account
  role_arn        = aws_iam_role.this[0].arn
  tags            = var.tags

  # The controller asks for credentials as soon as there is an association: they should be good for something.
  depends_on = [aws_iam_role_policy_attachment.this]
}
