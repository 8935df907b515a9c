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
