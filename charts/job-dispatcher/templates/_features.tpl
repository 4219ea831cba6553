{{/*
The features of files/rbac/management.yaml that these values turn on, one a line.
*/}}
{{- define "job-dispatcher.features" -}}
core
{{- if semverCompare "<1.35-0" .Capabilities.KubeVersion.Version }}
managedByProbe
{{- end }}
{{- if .Values.leaderElection.enabled }}
leaderElection
{{- end }}
{{- if .Values.tokenRenewal.enabled }}
tokenRenewal
{{- end }}
{{- if .Values.priorityOrder.enabled }}
priorityOrder
{{- end }}
{{- if .Values.metrics.authentication.enabled }}
metricsAuthentication
{{- end }}
{{- if .Values.localCluster.enabled }}
localCluster
{{- end }}
{{- if .Values.propagation.namespaces }}
propagation
{{- end }}
{{- if .Values.view.enabled }}
view
{{- end }}
{{- end }}

{{/*
Rules of the features that are on: a list of root context and one "where" of files/rbac/management.yaml.
*/}}
{{- define "job-dispatcher.rules" -}}
{{- $root := index . 0 }}
{{- $where := index . 1 }}
{{- $rights := $root.Files.Get "files/rbac/management.yaml" | fromYaml }}
{{- range $feature := include "job-dispatcher.features" $root | splitList "\n" }}
{{- range $rule := index $rights $feature }}
{{- $everywhere := and (eq $rule.where "propagated") (has "*" $root.Values.propagation.namespaces) }}
{{- if eq (ternary "cluster" $rule.where $everywhere) $where }}
# {{ $rule.why }}
- {{ omit $rule "where" "why" | toYaml | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
