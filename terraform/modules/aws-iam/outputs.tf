output "policy_arn" {
  description = "ARN of the policy."
  value       = aws_iam_policy.this.arn
}

output "policy_json" {
  description = "The policy's text, for who manages policies elsewhere."
  value       = aws_iam_policy.this.policy
}

output "role_arn" {
  description = "ARN of the role: for IRSA, the ServiceAccount's annotation eks.amazonaws.com/role-arn. Null: no role was asked for."
  value       = one(aws_iam_role.this[*].arn)
}

output "role_name" {
  description = "Name of the role. Null: no role was asked for."
  value       = one(aws_iam_role.this[*].name)
}
