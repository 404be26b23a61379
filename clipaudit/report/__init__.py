"""Reports of an audit: one page for people, JSON, JUnit and Markdown for machines, and files to act with."""
