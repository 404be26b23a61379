"""Print one of the README's two set-up commands: `run` (installs and runs the job) or `test` (installs and tests)."""

import re
import sys
from pathlib import Path

readme = Path(__file__).resolve().parent.parent / "README.md"
commands = dict(re.findall(r"<!-- ci:(\w+) -->\n```(?:bash|console|sh)?\n(.+?)\n```", readme.read_text(), re.DOTALL))
print(commands[sys.argv[1]])
