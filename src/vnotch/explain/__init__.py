"""Explanations of verdicts, in words."""

from vnotch.explain.question import Explanation, explain, interface_policy
from vnotch.explain.words import Hop, Step

__all__ = ["Explanation", "Hop", "Step", "explain", "interface_policy"]
