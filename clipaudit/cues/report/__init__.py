"""Reports of an audit: one page for people, JSON, JUnit and Markdown for machines, and files to act with.

`save_report(audit_cues(...), "report")` writes them all; the command `clipaudit report` adds options and an exit code.
"""

from clipaudit.cues.report.save import save_report

__all__ = ["save_report"]
