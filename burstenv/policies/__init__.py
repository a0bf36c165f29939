"""Heuristics for admission, routing and batching, and their composition by name.

Shipped rules are compiled, have an agent's observation, and act through the agent's action space; a user's heuristic is
one decorated function in plain Python (``policies/heuristics.py``).
"""

from burstenv.policies.admission_rules import ADMISSION_RULES
from burstenv.policies.batching import BATCHING_MODES, BATCHING_RULES, BatchingRule, named_mode
from burstenv.policies.composite import Composite, RuleChoice, parse_composite, parse_rule
from burstenv.policies.heuristics import admission_rule, policy, routing_rule
from burstenv.policies.load import Heuristic, Policy, load_policy, load_policy_file, loaded_files, named_in_data
from burstenv.policies.lookahead.playing import Lookahead
from burstenv.policies.lookahead.policy import LookaheadPolicy, parse_lookahead
from burstenv.policies.network.policy import NetworkPolicy
from burstenv.policies.network.weights import Network
from burstenv.policies.python_policy import PythonPolicy
from burstenv.policies.records import POLICY
from burstenv.policies.registry import admission_rules, python_policies, routing_rules
from burstenv.policies.request_view import RequestView
from burstenv.policies.routing_rules import ROUTING_RULES
from burstenv.policies.rule import Parameter, Range, Rule
from burstenv.policies.view import ReplicaView, View

__all__ = [
    "ADMISSION_RULES",
    "BATCHING_MODES",
    "BATCHING_RULES",
    "POLICY",
    "ROUTING_RULES",
    "BatchingRule",
    "Composite",
    "Heuristic",
    "Lookahead",
    "LookaheadPolicy",
    "Network",
    "NetworkPolicy",
    "Parameter",
    "Policy",
    "PythonPolicy",
    "Range",
    "ReplicaView",
    "RequestView",
    "Rule",
    "RuleChoice",
    "View",
    "admission_rule",
    "admission_rules",
    "load_policy",
    "load_policy_file",
    "loaded_files",
    "named_in_data",
    "named_mode",
    "parse_composite",
    "parse_lookahead",
    "parse_rule",
    "policy",
    "python_policies",
    "routing_rule",
    "routing_rules",
]
