"""Words: the text pool, class names, prompt templates."""
