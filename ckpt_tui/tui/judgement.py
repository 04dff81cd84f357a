"""Verdicts, levels and effects as glyph, word and role: the same wherever a screen shows them."""

from __future__ import annotations

from ckpt_tui.checkpoints.model import Finding, Severity

_VERDICTS = {
    "valid": ("✓", "good"),
    "damaged": ("✖", "error"),
    "nonfinite": ("✖", "error"),
    "unsafe": ("✖", "error"),
    "incomplete": ("▲", "warning"),
    "not-a-checkpoint": ("✖", "error"),
    "unreadable": ("?", "warning"),
}
_VERDICT_WORDS = {"nonfinite": "not finite", "unsafe": "UNSAFE", "not-a-checkpoint": "not a checkpoint"}
_OUTCOMES = {
    "pass": ("✓ pass", "good"),
    "fail": ("✖ fail", "error"),
    "not-checked": ("- not checked", "dim"),
    "not-applicable": ("- n/a", "dim"),
}
_SEVERITIES = {
    Severity.ERROR: ("✖ error", "error"),
    Severity.WARNING: ("▲ warning", "warning"),
    Severity.INFO: ("· info", "dim"),
}
_EFFECT_ROLES = {
    "safe": "good",
    "unknown": "dim",
    "course": "accent",
    "exactness": "warning",
    "impossible": "error",
}


def verdict_words(verdict: str) -> tuple[str, str]:
    """`✓ valid`, `✖ damaged` ... and the role it is drawn in."""
    glyph, role = _VERDICTS.get(verdict, ("?", "warning"))
    return f"{glyph} {_VERDICT_WORDS.get(verdict, verdict)}", role


def outcome_words(outcome: str) -> tuple[str, str]:
    """What a level came to: `✓ pass`, `✖ fail`, `- not checked`, `- n/a`."""
    return _OUTCOMES.get(outcome, (outcome, ""))


def severity_words(severity: Severity) -> tuple[str, str]:
    return _SEVERITIES[severity]


def effect_role(effect: str) -> str:
    """The role of a hyperparameter's effect; its words come with it."""
    return _EFFECT_ROLES.get(effect, "")


def sorted_by_severity(findings: tuple[Finding, ...] | list[Finding]) -> list[Finding]:
    """Errors first, then warnings; within each as they were found."""
    order = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}
    return sorted(findings, key=lambda finding: order[finding.severity])
