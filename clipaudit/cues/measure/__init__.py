"""What is read from a run and a model before the statistics: images, directions, answers, controls."""
