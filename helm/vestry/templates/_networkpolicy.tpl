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

{{/* Peers whose address is no network, as Kubernetes would find out half-way; a JSON list of faults. */}}
{{- define "vestry.networkPolicy.faults" -}}
{{- $faults := list -}}
{{- with .Values.networkPolicy -}}
{{- $peers := concat (default list .clients) (default list .administrators) (default list .monitoring) .dns.peers (default list .database.peers) -}}
{{- range .services -}}
{{- $peers = concat $peers .peers -}}
{{- end -}}
{{- range $peers -}}
{{- range concat (list (default dict .ipBlock).cidr) (default list (default dict .ipBlock).except) | compact -}}
{{- if not (regexMatch "^[0-9A-Fa-f:.]+/[0-9]{1,3}$" .) -}}
{{- $faults = append $faults (printf "networkPolicy: ipBlock %q is no network. Write one, such as %s/%d." . (regexReplaceAll "/.*$" . "") (ternary 128 32 (contains ":" .))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
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
