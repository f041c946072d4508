{{- define "gradwire.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "gradwire.selector" -}}
app.kubernetes.io/name: gradwire
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gradwire.labels" -}}
{{ include "gradwire.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "gradwire.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}

{{/* The secret of the tokens: the given one, the one made of entries, or none. */}}
{{- define "gradwire.tokens" -}}
{{- if .Values.tokens.secretName -}}
{{ .Values.tokens.secretName }}
{{- else if .Values.tokens.entries -}}
{{ include "gradwire.name" . }}-tokens
{{- end -}}
{{- end }}

{{/* A setting as a text: whole numbers without an exponent. */}}
{{- define "gradwire.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end }}

{{/* The settings of the server: those that follow from the values, then what `settings` says beside or instead. */}}
{{- define "gradwire.settings" -}}
{{- $mebibyte := 1048576 -}}
{{- $settings := dict
  "listen" "0.0.0.0:50051"
  "health_listen" "0.0.0.0:50052"
  "metrics_listen" "0.0.0.0:50053"
  "insecure_listen_anywhere" (toString .Values.insecure)
  "workers" .Values.workers
  "worker_memory_bytes" (mul .Values.workerMemoryMiB $mebibyte)
  "max_peak_bytes" (div (mul .Values.workerMemoryMiB $mebibyte) 3)
  "executable_cache_bytes" (div (mul .Values.workerMemoryMiB $mebibyte) 8)
  "grace_s" .Values.graceSeconds
-}}
{{- if .Values.tls.secretName -}}
{{- $_ := set $settings "tls_cert_file" "/etc/gradwire/tls/tls.crt" -}}
{{- $_ := set $settings "tls_key_file" "/etc/gradwire/tls/tls.key" -}}
{{- if .Values.tls.clientCa -}}
{{- $_ := set $settings "tls_client_ca_file" "/etc/gradwire/tls/ca.crt" -}}
{{- end -}}
{{- end -}}
{{- if include "gradwire.tokens" . -}}
{{- $_ := set $settings "token_file" "/etc/gradwire/tokens/tokens" -}}
{{- end -}}
{{- range $name, $value := mergeOverwrite $settings .Values.settings }}
- name: GRADWIRE_{{ upper $name }}
  value: {{ include "gradwire.text" $value | quote }}
{{- end }}
{{- end }}
