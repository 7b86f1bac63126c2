{{- /* An image: registry, repository, and digest or tag. */ -}}
{{- define "batchwright.image" -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .of.repository }}
{{- if .of.digest }}@{{ .of.digest }}{{ else }}:{{ .of.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* The operator's settings: those of the user, and what the chart knows better. */ -}}
{{- define "batchwright.settings" -}}
{{- $settings := deepCopy .Values.settings }}
{{- $_ := set $settings "agentNamespace" .Values.agent.namespace }}
{{- $_ := set $settings "imagePullPolicy" .Values.image.pullPolicy }}
{{- if and .Values.image.pullSecrets (not $settings.benchmarkPods) }}
{{- $names := list }}
{{- range .Values.image.pullSecrets }}{{ $names = append $names .name }}{{ end }}
{{- $_ := set $settings "benchmarkPods" (list (dict "imagePullSecrets" $names)) }}
{{- end }}
{{- toYaml $settings }}
{{- end }}
