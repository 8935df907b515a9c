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
{{- $_ := set $values "catalog" (default .model $values.catalog) -}}
{{- toJson $values -}}
{{- end -}}

{{/* A number as vLLM reads it: 4294967296, where `toString` would give 4.294967296e+09. */}}
{{- define "vestry.engine.number" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/*
The arguments that the values add to the catalog's: those of `arguments`, sorted, and as many GPUs to split the model
over as the pod has, unless they say otherwise. Takes the engine's values; gives a JSON list.
*/}}
{{- define "vestry.engine.own" -}}
{{- $given := deepCopy (default dict .arguments) -}}
{{- if and (gt (int .gpus) 1) (not (hasKey $given "tensor-parallel-size")) (not (hasKey $given "pipeline-parallel-size")) -}}
{{- $_ := set $given "tensor-parallel-size" .gpus -}}
{{- end -}}
{{- $own := list -}}
{{- range $name, $value := $given -}}
{{- $own = append $own (printf "--%s" $name) -}}
{{- if not (kindIs "bool" $value) -}}
{{- $own = append $own (include "vestry.engine.number" $value) -}}
{{- end -}}
{{- end -}}
{{- toJson $own -}}
{{- end -}}

{{/*
vLLM's arguments: those of the catalog entry (files/catalog.json, made from what `vestry engine` starts), with the
marks in it filled in, and then the model's own. Takes (dict "root" $ "model" NAME "values" VALUES).
*/}}
{{- define "vestry.engine.arguments" -}}
{{- $entry := index (.root.Files.Get "files/catalog.json" | fromJson).entries .values.catalog -}}
{{- $own := include "vestry.engine.own" .values | fromJsonArray -}}
{{- $context := $entry.context -}}
{{- with (default dict .values.arguments) -}}
{{- $context = default $context (get . "max-model-len") -}}
{{- end -}}
{{- $marks := dict "@MODEL@" .model "@CONTEXT@" (include "vestry.engine.number" $context) "@SHUTDOWN@" (include "vestry.engine.number" .values.shutdownSeconds) -}}
{{- $arguments := list -}}
{{- range index $entry.devices (include "vestry.engine.device" .values) -}}
{{- $arguments = append $arguments (default . (get $marks .)) -}}
{{- end -}}
{{- $skip := false -}}
{{- range $own -}}
{{- if $skip -}}
{{- $skip = false -}}
{{- else if eq . "--max-model-len" -}}
{{- $skip = true -}}
{{- else -}}
{{- $arguments = append $arguments . -}}
{{- end -}}
{{- end -}}
{{- toYaml $arguments -}}
{{- end -}}

{{- define "vestry.engine.device" -}}
{{- ternary "gpu" "cpu" (gt (int .gpus) 0) -}}
{{- end -}}
