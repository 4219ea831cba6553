{{- define "worker.labels" -}}
app.kubernetes.io/name: job-dispatcher
app.kubernetes.io/component: worker-account
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/*
The features of files/rbac.yaml that these values turn on, one a line.
*/}}
{{- define "worker.features" -}}
core
{{- if .Values.tokenRenewal.enabled }}
tokenRenewal
{{- end }}
{{- if .Values.nodes.enabled }}
nodes
{{- end }}
{{- if .Values.propagation.namespaces }}
propagation
{{- end }}
{{- if .Values.createNamespace.enabled }}
createNamespace
{{- end }}
{{- if .Values.view.enabled }}
view
{{- end }}
{{- end }}

{{/*
Rules of the features that are on: a list of root context and one "where" of files/rbac.yaml.
*/}}
{{- define "worker.rules" -}}
{{- $root := index . 0 }}
{{- $where := index . 1 }}
{{- $rights := $root.Files.Get "files/rbac.yaml" | replace "ACCOUNT]" (printf "%s]" $root.Values.accountName) | fromYaml }}
{{- range $feature := include "worker.features" $root | splitList "\n" }}
{{- range $rule := index $rights $feature }}
{{- $everywhere := and (eq $rule.where "propagated") (has "*" $root.Values.propagation.namespaces) }}
{{- if eq (ternary "cluster" $rule.where $everywhere) $where }}
# {{ $rule.why }}
- {{ omit $rule "where" "why" | toYaml | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
