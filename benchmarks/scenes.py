"""How many scenes of the demo world one process draws in a second: `python benchmarks/scenes.py`."""

import time

from clipaudit.demo.training.data import training_batch

BATCH = 512


def main() -> None:
    training_batch(0, 0, BATCH)  # fills the caches of sprites and noise
    for step in range(1, 6):
        start = time.perf_counter()
        training_batch(0, step, BATCH)
        print(f"{BATCH / (time.perf_counter() - start):.0f} scenes/s with captions and masks")


if __name__ == "__main__":
    main()
