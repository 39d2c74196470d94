"""Renders the Helm chart as `helm template NAME --namespace NAMESPACE --set ...` would: render.py CHART NAME NAMESPACE [VALUES]

With `--notes` as the first argument: what `helm install` tells people then.
"""
import json
import sys

import helm_python

notes = sys.argv[1] == "--notes"
chart, name, namespace, *values = sys.argv[2 if notes else 1:]
given = json.loads(values[0]) if values else None
with helm_python.Chart.load(chart) as chart:
    chart.validate_schema(given)
    rendered = chart.render(values=given, name=name, namespace=namespace)
for path in sorted(rendered):
    text = rendered[path].strip()
    if notes and path.endswith("NOTES.txt"):
        print(text)
    elif not notes and path.endswith(".yaml") and text:
        print(text if text.startswith("---") else "---\n" + text)
