{{/* Further files that the settings name, each volume of `server.files` in a folder of its own. */}}

{{- define "vestry.files.mounts" -}}
{{- range $name, $given := .Values.server.files }}
- name: file-{{ $name }}
  mountPath: /run/files/{{ $name }}
  readOnly: true
{{- end }}
{{- end }}

{{- define "vestry.files.volumes" -}}
{{- range $name, $given := .Values.server.files }}
- name: file-{{ $name }}
  {{- if $given.secret }}
  secret:
    secretName: {{ $given.secret | quote }}
    defaultMode: 0440
  {{- else if $given.configMap }}
  configMap:
    name: {{ $given.configMap | quote }}
  {{- else }}
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: {{ int (default 3600 $given.serviceAccountToken.expirationSeconds) }}
          {{- with $given.serviceAccountToken.audience }}
          audience: {{ . | quote }}
          {{- end }}
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
  {{- end }}
{{- end }}
{{- end }}
