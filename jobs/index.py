"""Entry point of the index job on a cluster: `ray job submit --working-dir . -- python jobs/index.py RUN`.

Takes the options of `clipaudit index`; heads are built in parallel on the job's cluster (RAY_ADDRESS).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clipaudit.__main__ import main

if __name__ == "__main__":
    sys.argv[1:1] = ["index", "--engine", "ray"]
    main()
