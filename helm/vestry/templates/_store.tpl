{{/* PostgreSQL: what a container needs to use it. `postgresql` is true, or empty. */}}

{{- define "vestry.postgresql" -}}
{{- if .Values.store.postgresql.existingSecret -}}
true
{{- end -}}
{{- end -}}

{{/* The server's processes: none where there is nothing to serve, or while a schema is undone. */}}
{{- define "vestry.server.replicas" -}}
{{- if or (not .Values.models) .Values.store.postgresql.migration.downgradeTo -}}
0
{{- else -}}
{{- int .Values.server.replicas -}}
{{- end -}}
{{- end -}}

{{/* Address and user, by reference. Takes (dict "root" $ "secret" NAME). */}}
{{- define "vestry.store.environment" -}}
{{- $entries := .root.Values.store.postgresql.entries -}}
- name: VESTRY_STORE__URL
  valueFrom:
    secretKeyRef:
      name: {{ .secret | quote }}
      key: {{ $entries.url | quote }}
{{- with $entries.user }}
- name: VESTRY_STORE__USER
  valueFrom:
    secretKeyRef:
      name: {{ $.secret | quote }}
      key: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Where its files are, for the settings. */}}
{{- define "vestry.store.files" -}}
{{- $files := dict -}}
{{- with .Values.store.postgresql -}}
{{- if .entries.password -}}
{{- $_ := set $files "password" "/run/secrets/database/password" -}}
{{- end -}}
{{- if or .caSecret .caConfigMap -}}
{{- $_ := set $files "ca" "/run/secrets/database-ca/ca.crt" -}}
{{- end -}}
{{- if .clientCertificateSecret -}}
{{- $_ := set $files "certificate" "/run/secrets/database-client/tls.crt" -}}
{{- $_ := set $files "key" "/run/secrets/database-client/tls.key" -}}
{{- end -}}
{{- end -}}
{{- toJson $files -}}
{{- end -}}

{{- define "vestry.store.mounts" -}}
{{- with .Values.store.postgresql -}}
{{- if .entries.password -}}
- name: database
  mountPath: /run/secrets/database
  readOnly: true
{{- end }}
{{- if or .caSecret .caConfigMap }}
- name: database-ca
  mountPath: /run/secrets/database-ca
  readOnly: true
{{- end }}
{{- if .clientCertificateSecret }}
- name: database-client
  mountPath: /run/secrets/database-client
  readOnly: true
{{- end }}
{{- end -}}
{{- end -}}

{{/* Takes (dict "root" $ "secret" NAME "certificate" NAME). */}}
{{- define "vestry.store.volumes" -}}
{{- $postgresql := .root.Values.store.postgresql -}}
{{- with $postgresql.entries.password -}}
- name: database
  secret:
    secretName: {{ $.secret | quote }}
    defaultMode: 0440
    items:
      - key: {{ . | quote }}
        path: password
{{- end }}
{{- with $postgresql.caSecret }}
- name: database-ca
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
    items:
      - key: ca.crt
        path: ca.crt
{{- end }}
{{- with $postgresql.caConfigMap }}
- name: database-ca
  configMap:
    name: {{ . | quote }}
    items:
      - key: ca.crt
        path: ca.crt
{{- end }}
{{- if $postgresql.clientCertificateSecret }}
- name: database-client
  secret:
    secretName: {{ .certificate | quote }}
    defaultMode: 0440
    items:
      - key: tls.crt
        path: tls.crt
      - key: tls.key
        path: tls.key
{{- end }}
{{- end -}}

{{/* Whether there is a Job, and what names it. */}}
{{- define "vestry.migration" -}}
{{- if and .Values.store.postgresql.existingSecret (or .Values.store.postgresql.migration.enabled .Values.store.postgresql.migration.downgradeTo) -}}
true
{{- end -}}
{{- end -}}

{{- define "vestry.migration.selector" -}}
{{ include "vestry.selector" . }}
app.kubernetes.io/component: migration
{{- end -}}

{{/*
When Helm makes an object of the migration: before the release is changed; after that, if a schema is undone, for then no
server is left. `pre-rollback` is that of the version which one goes back to: it refuses a schema that it does not know,
before any of its servers starts. Takes (dict "root" $ "weight" TEXT).
*/}}
{{- define "vestry.migration.hook" -}}
helm.sh/hook: {{ empty .root.Values.store.postgresql.migration.downgradeTo | ternary "pre-install,pre-upgrade,pre-rollback" "post-upgrade" | quote }}
helm.sh/hook-weight: {{ .weight | quote }}
{{- end -}}
