{{/*
The values of one engine: those of `engine`, with the model's own in their place, key by key in the first two levels.
(`mergeOverwrite` would not do: it takes `false` and 0 for "not given".)
Takes (dict "root" $ "model" NAME); gives JSON.
*/}}
{{- define "vestry.engine.values" -}}
{{- $values := deepCopy .root.Values.engine -}}
{{- range $key, $value := index .root.Values.models .model -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $values $key)) -}}
{{- range $inner, $own := $value -}}
{{- $_ := set (get $values $key) $inner $own -}}
{{- end -}}
{{- else -}}
{{- $_ := set $values $key $value -}}
{{- end -}}
{{- end -}}
{{- toJson $values -}}
{{- end -}}

{{/*
vLLM's arguments: those of the catalog entry (files/catalog.json, which `vestry engine MODEL --print` also shows),
with the model's name and the time to stop filled in, and then the model's own.
Takes (dict "root" $ "model" NAME "values" VALUES).
*/}}
{{- define "vestry.engine.arguments" -}}
{{- $catalog := (.root.Files.Get "files/catalog.json" | fromJson).entries -}}
{{- $entry := index $catalog (default .model .values.catalog) -}}
{{- $arguments := list -}}
{{- range $entry.arguments -}}
{{- $arguments = append $arguments (. | replace "@MODEL@" $.model | replace "@SHUTDOWN@" (toString (int $.values.shutdownSeconds))) -}}
{{- end -}}
{{- toYaml (concat $arguments (default list .values.arguments)) -}}
{{- end -}}
