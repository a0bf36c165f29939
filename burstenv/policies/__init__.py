"""Heuristics for admission, routing and batching, and their composition by name.

Every rule is compiled, sees what an agent sees, and acts through the agent's action space.
"""

from burstenv.policies.admission import ADMISSION_RULES
from burstenv.policies.batching import BATCHING_MODES, named_mode
from burstenv.policies.composite import Composite, RuleChoice, parse_composite, parse_rule
from burstenv.policies.routing import ROUTING_RULES
from burstenv.policies.rule import Rule
from burstenv.policies.state import POLICY

__all__ = [
    "ADMISSION_RULES",
    "BATCHING_MODES",
    "POLICY",
    "ROUTING_RULES",
    "Composite",
    "Rule",
    "RuleChoice",
    "named_mode",
    "parse_composite",
    "parse_rule",
]
