{{/* What a part's Pods are selected by: the one place where it is said. Given: the root, and the part. */}}
{{- define "mainstay.selector" -}}
app.kubernetes.io/name: mainstay
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}
