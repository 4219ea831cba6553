{{/*
What the pods of the controller and of the uninstall check have in common.
*/}}
{{- define "job-dispatcher.podSpec" -}}
serviceAccountName: {{ include "job-dispatcher.serviceAccountName" . }}
automountServiceAccountToken: true
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .Values.hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/*
Whether pods of the release and of the one before may run side by side: only when both elect a leader.
Not empty when they may. What runs is asked of the cluster, so that `helm template` takes it for granted.
*/}}
{{- define "job-dispatcher.mayOverlap" -}}
{{- $running := lookup "apps/v1" "Deployment" .Release.Namespace (include "job-dispatcher.fullname" .) }}
{{- $elects := true }}
{{- if $running }}
{{- $elects = has "--leader-elect" ((index $running.spec.template.spec.containers 0).args | default list) }}
{{- end }}
{{- if and .Values.leaderElection.enabled $elects }}true{{ end }}
{{- end }}
