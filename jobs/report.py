"""Entry point of a report on a cluster: `ray job submit --working-dir . -- python jobs/report.py RUN --classes FILE`.

Takes the options of `clipaudit report`; reads stored rows, so that one CPU node is enough. The package is imported from
the job's working directory, without installation. Ray shows a job whose report did not pass its gate as failed; the
exit code is in the job's log.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clipaudit.__main__ import main

if __name__ == "__main__":
    sys.argv[1:1] = ["report"]
    main()
