{{/* What the schema cannot see. Each fault says what is wrong, where, and the mend. */}}
{{- define "vestry.checks" -}}
{{- $faults := list -}}
{{- $catalog := (.Files.Get "files/catalog.json" | fromJson).entries -}}
{{- range $model, $given := .Values.models -}}
{{- $entry := default $model $given.catalog -}}
{{- if not (hasKey $catalog $entry) -}}
{{- $faults = append $faults (printf "models.%s: the catalog has no entry %q. Set models.%s.catalog to one of: %s." $model $entry $model (keys $catalog | sortAlpha | join ", ")) -}}
{{- else -}}
{{- $values := include "vestry.engine.values" (dict "root" $ "model" $model) | fromJson -}}
{{- if not (hasKey (index $catalog $entry).devices (include "vestry.engine.device" $values)) -}}
{{- $faults = append $faults (printf "models.%s.gpus: %q runs on GPUs only. Set it to 1 or more." $model $entry) -}}
{{- end -}}
{{- if hasKey (default dict $values.arguments) "max-model-len" -}}
{{- $most := int (index $catalog $entry).context -}}
{{- $context := include "vestry.engine.number" (get $values.arguments "max-model-len") -}}
{{- if or (not (regexMatch "^[0-9]+$" $context)) (lt (int $context) 1) (gt (int $context) $most) -}}
{{- $faults = append $faults (printf "models.%s.arguments.max-model-len: %s is not from 1 to %d, and %q was trained for %d tokens. Set it to a whole number up to that, or leave it out." $model $context $most $entry $most) -}}
{{- end -}}
{{- end -}}
{{- $split := mul (int (default 1 (get (default dict $values.arguments) "tensor-parallel-size"))) (int (default 1 (get (default dict $values.arguments) "pipeline-parallel-size"))) -}}
{{- if and (gt (int $values.gpus) 0) (gt $split (int64 $values.gpus)) -}}
{{- $faults = append $faults (printf "models.%s.arguments: they split the model over %d GPUs, and each of its engines has %d. Set models.%s.gpus to %d, or leave the sizes out." $model $split (int $values.gpus) $model $split) -}}
{{- end -}}
{{- $image := (include "vestry.engine.values" (dict "root" $ "model" $model) | fromJson).image -}}
{{- if not (or $image.tag $image.digest) -}}
{{- $faults = append $faults (printf "models.%s.image: it has neither tag nor digest. Set one of them, for this model or under engine.image." $model) -}}
{{- end -}}
{{- if $given.manifest -}}
{{- if ne (get (fromJson $given.manifest) "name") $entry -}}
{{- $faults = append $faults (printf "models.%s.manifest: this is not the vestry-model.json of %q. Give that file's content: --set-file 'models.%s.manifest=vestry-model.json'." $model $entry $model) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" (include "vestry.fullname" .)) -}}
{{- $faults = append $faults (printf "the name of a Service is of letters, digits and dashes, a letter first and no dash last; %q is not. Set fullnameOverride, or choose another release name." (include "vestry.fullname" .)) -}}
{{- end -}}
{{- if not .Values.settings.tenants -}}
{{- $faults = append $faults "settings.tenants: there is no tenant, so no key can work. Name one, such as `default: {}`." -}}
{{- end -}}
{{- range $tenant, $grant := .Values.settings.tenants -}}
{{- range $model := (default (list "*") $grant.models) -}}
{{- if and (ne $model "*") (not (hasKey $.Values.models $model)) -}}
{{- $faults = append $faults (printf "settings.tenants.%s.models: %q is not among `models`. Define it there, or take it out." $tenant $model) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range regexFindAll "/run/files/[^/\"]+" (toJson .Values.settings) -1 | uniq -}}
{{- $name := trimPrefix "/run/files/" . -}}
{{- if not (hasKey $.Values.server.files $name) -}}
{{- $faults = append $faults (printf "settings: they name %s, and nothing is mounted there. Name a Secret or ConfigMap as server.files.%s." . $name) -}}
{{- end -}}
{{- end -}}
{{- $faults = concat $faults (include "vestry.copies.faults" . | fromJsonArray) (include "vestry.networkPolicy.faults" . | fromJsonArray) -}}
{{- with .Values.store.postgresql -}}
{{- if .existingSecret -}}
{{- if and $.Values.networkPolicy.enabled (not $.Values.networkPolicy.database.peers) -}}
{{- $faults = append $faults "networkPolicy.database.peers: the servers could not reach PostgreSQL. Add a peer that selects its pods, or an ipBlock with its address." -}}
{{- end -}}
{{- if and .caSecret .caConfigMap -}}
{{- $faults = append $faults "store.postgresql: the authorities of PostgreSQL's certificate are in caSecret or in caConfigMap. Set one of them." -}}
{{- end -}}
{{- if and .migration.clientCertificateSecret (not .clientCertificateSecret) -}}
{{- $faults = append $faults "store.postgresql.migration.clientCertificateSecret: the servers have no client certificate. Set store.postgresql.clientCertificateSecret too." -}}
{{- end -}}
{{- else -}}
{{- if gt (int $.Values.server.replicas) 1 -}}
{{- $faults = append $faults (printf "server.replicas: %d servers cannot share a SQLite file of keys. Set store.postgresql.existingSecret to a Secret that names a PostgreSQL which all of them use (docs/directory.md), or server.replicas to 1." (int $.Values.server.replicas)) -}}
{{- end -}}
{{- range $name := list "caSecret" "caConfigMap" "clientCertificateSecret" -}}
{{- if get $.Values.store.postgresql $name -}}
{{- $faults = append $faults (printf "store.postgresql.%s: no PostgreSQL is used. Set store.postgresql.existingSecret too, or leave it out." $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := list "existingSecret" "clientCertificateSecret" "downgradeTo" -}}
{{- if get $.Values.store.postgresql.migration $name -}}
{{- $faults = append $faults (printf "store.postgresql.migration.%s: no PostgreSQL is used. Set store.postgresql.existingSecret too, or leave it out." $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if .Values.ingress.enabled -}}
{{- if not .Values.ingress.hosts -}}
{{- $faults = append $faults "ingress.hosts: name at least one host, or set ingress.enabled to false." -}}
{{- end -}}
{{- range .Values.ingress.hosts -}}
{{- if not (include "vestry.answers" (dict "root" $ "host" .)) -}}
{{- $faults = append $faults (printf "ingress.hosts: the server would refuse every call to %s, which is not in settings.server.allowed_hosts. Add it there." .) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.clients) -}}
{{- $faults = append $faults "networkPolicy.clients: the Ingress could reach nothing. Add a peer that selects your ingress controller's pods." -}}
{{- end -}}
{{- end -}}
{{- with .Values.server.tls -}}
{{- if and (ne .clientCertificates "none") (or (not .existingSecret) (not .clientCaSecret)) -}}
{{- $faults = append $faults "server.tls: client certificates are asked for. Set existingSecret and clientCaSecret too, or clientCertificates to none." -}}
{{- end -}}
{{- if and .clientCrl (eq .clientCertificates "none") -}}
{{- $faults = append $faults "server.tls.clientCrl: it revokes client certificates. Ask for them with clientCertificates, or set it to false." -}}
{{- end -}}
{{- end -}}
{{- if and .Values.monitoring.serviceMonitor.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.monitoring) -}}
{{- $faults = append $faults "networkPolicy.monitoring: Prometheus could scrape nothing. Add a peer that selects its pods." -}}
{{- end -}}
{{- with .Values.monitoring.serviceMonitor -}}
{{- if and .enabled (gt (int (include "vestry.milliseconds" .scrapeTimeout)) (int (include "vestry.milliseconds" .interval))) -}}
{{- $faults = append $faults (printf "monitoring.serviceMonitor: a scrapeTimeout of %s is longer than the interval of %s, and the Prometheus operator would scrape nothing. Set it to that at most." .scrapeTimeout .interval) -}}
{{- end -}}
{{- end -}}
{{- if $faults -}}
{{- fail (printf "\n\nThe values cannot be used:\n- %s\n" (join "\n- " $faults)) -}}
{{- end -}}
{{- end -}}

{{/* A duration of the values, such as 15s. */}}
{{- define "vestry.milliseconds" -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- mul (trimSuffix $unit . | int) (get (dict "ms" 1 "s" 1000 "m" 60000) $unit) -}}
{{- end -}}
