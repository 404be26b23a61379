"""Prints the JSON Schema of `report.json`: `python -m clipaudit.report > clipaudit/report/report.schema.json`."""

import json

from clipaudit.report.document import json_schema

print(json.dumps(json_schema(), indent=1, ensure_ascii=False))
