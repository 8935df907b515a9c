{{/*
The settings file: `settings` from the values, with what the chart itself decides. The tree is the one in
server/vestry/settings.py; a test loads the result with the program's own reader.
*/}}
{{- define "vestry.settings" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- $server := dict "host" .Values.server.address "port" 8080 "ops_host" .Values.server.address "ops_port" 8081 "admin_host" (ternary .Values.server.address "127.0.0.1" .Values.admin.enabled) "admin_port" 8082 -}}
{{- with .Values.server.tls -}}
{{- if .existingSecret -}}
{{- $tls := dict "certificate" "/run/secrets/tls/tls.crt" "key" "/run/secrets/tls/tls.key" "client_certificates" .clientCertificates -}}
{{- if .clientCaSecret -}}
{{- $_ := set $tls "client_ca" "/run/secrets/client-ca/ca.crt" -}}
{{- if .clientCrl -}}
{{- $_ := set $tls "client_crl" "/run/secrets/client-ca/ca.crl" -}}
{{- end -}}
{{- end -}}
{{- $_ := set $server "tls" $tls -}}
{{- end -}}
{{- end -}}
{{- $_ := set $settings "server" (merge $server $settings.server) -}}
{{- /* Not the volume's root: that belongs to the cluster, and to its file system (`lost+found`). */ -}}
{{- if include "vestry.postgresql" . -}}
{{- $_ := set $settings "store" (merge (include "vestry.store.files" . | fromJson) (default dict $settings.store)) -}}
{{- end -}}
{{- if gt (int .Values.server.replicas) 1 -}}
{{- /* No server alone can say what the engines did. */ -}}
{{- $_ := set $settings "audit" (merge (dict "engines_shared" true) (default dict $settings.audit)) -}}
{{- end -}}
{{- $_ := set $settings "state" "/var/lib/vestry/state" -}}
{{- $_ := set $settings "secrets" "/run/secrets/vestry" -}}
{{- $models := dict -}}
{{- range $model, $given := .Values.models -}}
{{- $engine := include "vestry.engine.name" (dict "root" $ "model" $model) -}}
{{- $replicas := list -}}
{{- $values := include "vestry.engine.values" (dict "root" $ "model" $model) | fromJson -}}
{{- range $ordinal := until (int $values.replicas) -}}
{{- $url := printf "http://%s-%d.%s.%s.svc.%s:8000" $engine $ordinal $engine $.Release.Namespace $.Values.clusterDomain -}}
{{- $replicas = append $replicas (dict "url" $url) -}}
{{- end -}}
{{- $own := include "vestry.engine.own" $values | fromJsonArray -}}
{{- $set := dict "catalog" $values.catalog "replicas" $replicas "engine" (dict "arguments" $own "shutdown_seconds" $values.shutdownSeconds) -}}
{{- if $given.manifest -}}
{{- $_ := set $set "path" (printf "/etc/vestry/models/%s" $engine) -}}
{{- end -}}
{{- $_ := set $models $model $set -}}
{{- end -}}
{{- $_ := set $settings "models" $models -}}
{{- toYaml $settings -}}
{{- end -}}

{{/* Whether the server answers calls by this name: "true", or empty. Takes (dict "root" $ "host" NAME). */}}
{{- define "vestry.answers" -}}
{{- $allowed := .root.Values.settings.server.allowed_hosts -}}
{{- $found := not $allowed -}}
{{- range $allowed -}}
{{- $found = or $found (eq (lower .) $.host) (and (hasPrefix "*." $.host) (hasSuffix (trimPrefix "*" $.host) (lower .))) -}}
{{- end -}}
{{- if $found -}}
true
{{- end -}}
{{- end -}}
