{{/* Volumes of outside copies that are directories, each volume of `server.copies` in a folder of its own. */}}

{{- define "vestry.copies.mounts" -}}
{{- range $name, $_ := .Values.server.copies }}
- name: copy-{{ $name }}
  mountPath: /mnt/copies/{{ $name }}
{{- end }}
{{- end }}

{{- define "vestry.copies.volumes" -}}
{{- range $name, $given := .Values.server.copies }}
- name: copy-{{ $name }}
  persistentVolumeClaim:
    claimName: {{ default (include "vestry.copies.claim" (dict "root" $ "name" $name)) $given.existingClaim | quote }}
{{- end }}
{{- end }}

{{/* The name of a claim that the chart makes. Takes (dict "root" $ "name" NAME). */}}
{{- define "vestry.copies.claim" -}}
{{- printf "%s-copy-%s" (include "vestry.fullname" .root) .name -}}
{{- end -}}

{{/* What is wrong with them, as the settings name them; a JSON list. */}}
{{- define "vestry.copies.faults" -}}
{{- $faults := list -}}
{{- range (default dict .Values.settings.audit).copies -}}
{{- if eq .kind "directory" -}}
{{- $volume := regexReplaceAll "^/mnt/copies/([^/]+)(/.*)?$" .path "${1}" -}}
{{- if or (not (hasKey $.Values.server.copies $volume)) (has ".." (splitList "/" .path)) -}}
{{- $faults = append $faults (printf "settings.audit.copies: %q is to be in %s, where no volume is. Name one under server.copies, such as %s, and set its path to /mnt/copies/%s." .name .path .name .name) -}}
{{- else if and (get $.Values.server.copies $volume).size (ne (trimSuffix "/" .path) (printf "/mnt/copies/%s" $volume)) -}}
{{- $faults = append $faults (printf "settings.audit.copies: %q is to be in %s, and the volume that server.copies.%s makes has no folder. Set its path to /mnt/copies/%s." .name .path $volume $volume) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if gt (int .Values.server.replicas) 1 -}}
{{- range $name, $given := .Values.server.copies -}}
{{- if and $given.size (ne (default "ReadWriteOnce" $given.accessMode) "ReadWriteMany") -}}
{{- $faults = append $faults (printf "server.copies.%s: %d servers on several nodes use this volume. Set its accessMode to ReadWriteMany, with a storage class that can do so." $name (int $.Values.server.replicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}
