"""What pages are made of: templates and their environment, and SVG."""
