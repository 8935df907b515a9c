{{/* What all pods have in common. Pod Security Standard: restricted. */}}

{{- define "vestry.pod.securityContext" -}}
runAsNonRoot: true
{{- with .runAsUser }}
runAsUser: {{ int64 . }}
{{- end }}
{{- with .runAsGroup }}
runAsGroup: {{ int64 . }}
{{- end }}
{{- with .fsGroup }}
fsGroup: {{ int64 . }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "vestry.container.securityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
{{- end -}}

{{/* Where pods run. Takes the values of the server or of one engine. */}}
{{- define "vestry.pod.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "vestry.pod.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Several servers on several nodes and zones. */}}
{{- define "vestry.server.spread" -}}
{{- $keys := list -}}
{{- if gt (int .Values.server.replicas) 1 -}}
{{- with .Values.server.spread.nodes -}}
{{- $keys = append $keys (dict "key" "kubernetes.io/hostname" "when" .) -}}
{{- end -}}
{{- with .Values.server.spread.zones -}}
{{- $keys = append $keys (dict "key" "topology.kubernetes.io/zone" "when" .) -}}
{{- end -}}
{{- end -}}
{{- if $keys -}}
topologySpreadConstraints:
{{- range $keys }}
  - maxSkew: 1
    topologyKey: {{ .key | quote }}
    whenUnsatisfiable: {{ .when | quote }}
    labelSelector:
      matchLabels:
        {{- include "vestry.server.selector" $ | nindent 8 }}
{{- end }}
{{- end -}}
{{- end -}}
