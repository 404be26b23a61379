"""The job: a driver that hands out shards, the workers, and the engines that run them."""
