"""Entry point of a report on a cluster: `ray job submit --working-dir . -- python jobs/report.py RUN --classes FILE`.

Takes the options of `clipaudit report`; reads stored rows, so that one CPU node is enough. Ray puts the working
directory's root beside this file's folder, so the package is importable as it is. A job that fails its gate shows as
failed; which exit code it had stands in the log.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clipaudit.__main__ import main

if __name__ == "__main__":
    sys.argv[1:1] = ["report"]
    main()
