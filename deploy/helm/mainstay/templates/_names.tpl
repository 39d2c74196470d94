{{/* What a part's Pods are selected by: the one place where it is said. Given: the root, and the part. */}}
{{- define "mainstay.selector" -}}
app.kubernetes.io/name: mainstay
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{/* Where something is reached: the ports that are given, else those of a URL's hosts, of each the usual one if it names none. */}}
{{- define "mainstay.ports" -}}
{{- $ports := .given }}
{{- if not $ports }}
{{- $usual := .usual }}
{{- range $host := regexReplaceAll "^[a-z]+://([^@/]*@)?([^/?]*).*$" .url "${2}" | splitList "," }}
{{- $ports = append $ports (regexFind ":[0-9]+$" $host | trimPrefix ":" | default $usual) }}
{{- end }}
{{- range $named := regexFind "[?&]port=[0-9,]+" .url | trimAll "?&port=" | splitList "," | compact }}
{{- $ports = append (without $ports $usual) $named }}
{{- end }}
{{- end }}
{{- range $port := uniq $ports }}
- {port: {{ $port }}, protocol: TCP}
{{- end }}
{{- end }}
