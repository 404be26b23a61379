"""Prints the JSON Schema of `report.json`: `python -m clipaudit.cues.report > FILE`."""

import json

from clipaudit.cues.report.document import json_schema

print(json.dumps(json_schema(), indent=1, ensure_ascii=False))
