"""Spurious-cue audits: which cues classes depend on, in words, with evidence, and what may be said of them.

`audit_cues(run, AuditOptions(...))` gives an `AuditResult`. The method is docs/method.md 7 and 8; by module:
`directions` (S0), `strength` (S1, S2), `multiplicity` and `screen` (S3, S4), `predictability` (S5), `attributes` (S6),
`pseudo` (S7), `groups` and `intervals` (S8, S9), `counterfactual` (S10), `shift` (S11), `environments` (S12),
`controls` (S13), then `verdicts`. `unlabelled` finds the class of an image where there are no labels.
"""

from clipaudit.cues.options import AuditOptions
from clipaudit.cues.pipeline import audit_cues
from clipaudit.cues.result.finding_parts import Verdict
from clipaudit.cues.result.result import AuditResult

__all__ = ["AuditOptions", "AuditResult", "Verdict", "audit_cues"]
