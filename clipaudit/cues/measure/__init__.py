"""What an audit measures in a run, with a model's text vectors: images, directions, tests, answers, controls."""
