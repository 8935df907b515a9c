{{/* Names and labels. */}}

{{- define "vestry.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "vestry.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "vestry.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "vestry.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What every pod of the release, and none of another, carries. */}}
{{- define "vestry.selector" -}}
app.kubernetes.io/name: {{ include "vestry.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "vestry.server.selector" -}}
{{ include "vestry.selector" . }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "vestry.engines.selector" -}}
{{ include "vestry.selector" . }}
app.kubernetes.io/component: engine
{{- end -}}

{{- define "vestry.labels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end -}}

{{/*
An engine's name, for its StatefulSet, its Service and its label. Takes (dict "root" $ "model" NAME).
A StatefulSet's name has room for 52 characters, since the labels of its pods add a hash; where a model's name is
too long or is not a label as it stands, a hash of it keeps two models apart.
*/}}
{{- define "vestry.engine.name" -}}
{{- $slug := regexReplaceAll "[^a-z0-9]+" (lower .model) "-" | trimSuffix "-" -}}
{{- $name := printf "%s-%s" (include "vestry.fullname" .root) $slug -}}
{{- if or (ne $slug .model) (gt (len $name) 52) (has $slug (list "ops" "admin")) -}}
{{- $name = printf "%s-%s" ($name | trunc 43 | trimSuffix "-") (sha256sum .model | trunc 8) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "vestry.image" -}}
{{- .repository -}}
{{- with .tag -}}
:{{ . }}
{{- end -}}
{{- with .digest -}}
@{{ . }}
{{- end -}}
{{- end -}}

{{/* How the API and the administration are spoken to. */}}
{{- define "vestry.scheme" -}}
{{- if .Values.server.tls.existingSecret -}}
https
{{- else -}}
http
{{- end -}}
{{- end -}}
