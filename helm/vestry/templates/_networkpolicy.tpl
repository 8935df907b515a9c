{{- define "vestry.networkPolicy.dns" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns.peers | nindent 4 }}
  ports:
    - port: {{ int .Values.networkPolicy.dns.port }}
      protocol: UDP
    - port: {{ int .Values.networkPolicy.dns.port }}
      protocol: TCP
{{- end -}}

{{- define "vestry.networkPolicy.database" -}}
- to:
    {{- toYaml .Values.networkPolicy.database.peers | nindent 4 }}
  ports:
    - port: {{ int .Values.networkPolicy.database.port }}
      protocol: TCP
{{- end -}}

{{/* What the settings have the servers call beside engines, PostgreSQL and DNS, by its place in them; a JSON list. */}}
{{- define "vestry.networkPolicy.called" -}}
{{- $called := list -}}
{{- range (default dict .Values.settings.identity).issuers -}}
{{- if not .jwks_file -}}
{{- $called = append $called (printf "settings.identity.issuers: %s" .name) -}}
{{- end -}}
{{- end -}}
{{- range (default dict .Values.settings.audit).copies -}}
{{- if ne .kind "directory" -}}
{{- $called = append $called (printf "settings.audit.copies: %s" .name) -}}
{{- end -}}
{{- end -}}
{{- range (default dict .Values.settings.audit).exports -}}
{{- $called = append $called (printf "settings.audit.exports: %s" .name) -}}
{{- end -}}
{{- toJson $called -}}
{{- end -}}
