mock_provider "aws" {
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_resource "aws_iam_policy" {
    defaults = { arn = "arn:aws:iam::123456789012:policy/lbprov-lab" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/lbprov-lab" }
  }
}

variables {
  cluster_name = "lab"
}

run "policy_alone" {
  assert {
    condition     = length(aws_iam_role.this) == 0 && output.role_arn == null
    error_message = "Nobody could take a role."
  }
  assert {
    condition     = aws_iam_policy.this.name == "lbprov-lab"
    error_message = "The name is made of the cluster's."
  }
  assert {
    condition = alltrue([
      for s in jsondecode(output.policy_json).Statement : strcontains(jsonencode(s.Condition), "\"lab\"")
      if !contains(["Look", "MakeSecurityGroupsInAnyVpc", "MakeTheRoleOfElasticLoadBalancing"], s.Sid)
    ])
    error_message = "Every change is bound to the cluster's tag."
  }
  assert {
    condition     = !strcontains(output.policy_json, "$${")
    error_message = "A placeholder is left in the policy."
  }
  assert {
    condition     = contains(jsondecode(output.policy_json).Statement[*].Sid, "MakeTheRoleOfElasticLoadBalancing")
    error_message = "The first load balancer of an account needs it."
  }
}

run "adoption" {
  variables {
    adoption = true
  }
  assert {
    condition = (
      length(jsondecode(output.policy_json).Statement) == length(jsondecode(run.policy_alone.policy_json).Statement) + 4 &&
      strcontains(output.policy_json, "aws:ResourceTag/kubernetes.io/cluster/lab") &&
      strcontains(output.policy_json, "aws:ResourceTag/elbv2.k8s.aws/cluster")
    )
    error_message = "What the other controllers made for this cluster may be marked, if that is asked for."
  }
}

run "irsa" {
  variables {
    oidc_provider_arn = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/ABC"
    namespace         = "net"
    service_account   = "lb"
    tags              = { team = "net" }
  }
  assert {
    condition = jsondecode(aws_iam_role.this[0].assume_role_policy).Statement == [{
      Sid       = "IRSA"
      Effect    = "Allow"
      Action    = "sts:AssumeRoleWithWebIdentity"
      Principal = { Federated = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/ABC" }
      Condition = { StringEquals = {
        "oidc.eks.eu-west-1.amazonaws.com/id/ABC:aud" = "sts.amazonaws.com"
        "oidc.eks.eu-west-1.amazonaws.com/id/ABC:sub" = "system:serviceaccount:net:lb"
      } }
    }]
    error_message = "One ServiceAccount of one issuer may take the role, and nobody else."
  }
  assert {
    condition     = aws_iam_role_policy_attachment.this[0].policy_arn == output.policy_arn
    error_message = "The role has the policy."
  }
  assert {
    condition     = output.role_arn == "arn:aws:iam::123456789012:role/lbprov-lab" && aws_iam_role.this[0].tags.team == "net"
    error_message = "The role is told, and tagged."
  }
  assert {
    condition     = length(aws_eks_pod_identity_association.this) == 0
    error_message = "Nobody asked for Pod Identity."
  }
}

run "pod_identity" {
  variables {
    eks_cluster_name = "prod"
  }
  assert {
    condition = jsondecode(aws_iam_role.this[0].assume_role_policy).Statement == [{
      Sid       = "PodIdentity"
      Effect    = "Allow"
      Action    = ["sts:AssumeRole", "sts:TagSession"]
      Principal = { Service = "pods.eks.amazonaws.com" }
    }]
    error_message = "EKS takes the role for the Pod."
  }
  assert {
    condition = (
      aws_eks_pod_identity_association.this[0].cluster_name == "prod" &&
      aws_eks_pod_identity_association.this[0].namespace == "lbprov-system" &&
      aws_eks_pod_identity_association.this[0].service_account == "lbprov-controller" &&
      aws_eks_pod_identity_association.this[0].role_arn == output.role_arn
    )
    error_message = "The ServiceAccount of the install manifests gets the role."
  }
}

run "both" {
  variables {
    eks_cluster_name  = "prod"
    oidc_provider_arn = "arn:aws:iam::123456789012:oidc-provider/oidc.example.com"
  }
  assert {
    condition     = jsondecode(aws_iam_role.this[0].assume_role_policy).Statement[*].Sid == ["IRSA", "PodIdentity"]
    error_message = "One role, two ways to it."
  }
}

run "another_partition" {
  override_data {
    target = data.aws_partition.current
    values = { partition = "aws-cn" }
  }
  assert {
    condition     = strcontains(output.policy_json, "arn:aws-cn:ec2:") && !strcontains(output.policy_json, "arn:aws:")
    error_message = "ARNs are the partition's."
  }
}

run "without_the_service_linked_role" {
  variables {
    create_service_linked_role = false
  }
  assert {
    condition     = !strcontains(output.policy_json, "iam:")
    error_message = "Nothing of IAM then."
  }
}

run "long_and_odd_names" {
  variables {
    cluster_name = "team a/prod: ${join("", [for i in range(9) : "0123456789"])}"
  }
  assert {
    condition     = length(aws_iam_policy.this.name) == 64 && startswith(aws_iam_policy.this.name, "lbprov-team-a-prod--")
    error_message = "IAM takes less than tags do."
  }
}

run "names_that_are_none" {
  command = plan
  variables {
    cluster_name      = "a*"
    name              = "no spaces"
    oidc_provider_arn = "https://oidc.example.com"
  }
  expect_failures = [var.cluster_name, var.name, var.oidc_provider_arn]
}
