"""Entry point of the main job on a cluster: `ray job submit --working-dir . -- python jobs/audit.py SHARDS --out RUN`.

Takes the options of `clipaudit audit`. The package is imported from the job's working directory, without installation;
the job joins its cluster by RAY_ADDRESS, which Ray sets.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clipaudit.__main__ import main

if __name__ == "__main__":
    sys.argv[1:1] = ["audit"]
    main()
