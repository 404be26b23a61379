"""Spurious-cue audits: which cue a class hangs on, in words, with evidence, and what may be said of it.

`audit_cues(run, AuditOptions(...))` gives an `AuditResult`. The method by module, S0 to S13 in their order:
`directions` (S0), `strength` (S1, S2), `multiplicity` and `screen` (S3, S4), `predictability` (S5), `attributes` (S6),
`pseudo` and `groups` (S7-S9), `counterfactual` (S10), `shift` (S11), `environments` (S12), `controls` (S13), then
`verdicts`. `unlabelled` says which class an image is where there are no labels.
"""

from clipaudit.cues.options import AuditOptions
from clipaudit.cues.pipeline import audit_cues
from clipaudit.cues.result.finding_parts import Verdict
from clipaudit.cues.result.result import AuditResult

__all__ = ["AuditOptions", "AuditResult", "Verdict", "audit_cues"]
