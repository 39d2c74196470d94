"""Renders the Helm chart as `helm template NAME --namespace NAMESPACE --set ...` would: render.py CHART NAME NAMESPACE [VALUES]."""
import json
import sys

import helm_python

chart, name, namespace, *values = sys.argv[1:]
given = json.loads(values[0]) if values else None
with helm_python.Chart.load(chart) as chart:
    chart.validate_schema(given)
    rendered = chart.render(values=given, name=name, namespace=namespace)
for path in sorted(rendered):
    text = rendered[path].strip()
    if path.endswith(".yaml") and text:
        print(text if text.startswith("---") else "---\n" + text)
