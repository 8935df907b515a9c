{{- define "vestry.networkPolicy.dns" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns.peers | nindent 4 }}
  ports:
    - port: {{ int .Values.networkPolicy.dns.port }}
      protocol: UDP
    - port: {{ int .Values.networkPolicy.dns.port }}
      protocol: TCP
{{- end -}}
