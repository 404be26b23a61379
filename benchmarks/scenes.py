"""How many scenes of the demo world one process draws in a second.

python benchmarks/scenes.py [--batch 512] [--rounds 5]
"""

import time

from options import parse, parser_for

from clipaudit.demo.training.data import training_batch


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--batch", type=int, default=512, help="scenes at a time")
    parser.add_argument("--rounds", type=int, default=5)
    options = parse(parser, batch=16, rounds=1)
    training_batch(0, 0, options.batch)  # fills the caches of sprites and noise
    for step in range(1, 1 + options.rounds):
        start = time.perf_counter()
        training_batch(0, step, options.batch)
        print(f"{options.batch / (time.perf_counter() - start):.0f} scenes/s with captions and masks")


if __name__ == "__main__":
    main()
