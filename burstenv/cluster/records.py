"""The records of a gateway: its constants, what policies remember, and the classes of requests."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel
from burstenv.cluster.flow_config import FLOW_PARAMETERS
from burstenv.engine.records import record

# What does not change while an episode is played; shared by all environments.
GATEWAY = record(
    [
        ("num_classes", "i4"),
        ("max_defers", "i4"),
        ("defer_s", "f8"),
        ("batching_period_s", "f8"),  # a replica's mode may change this often
        ("gpus", "i4"),  # of all replicas
        # What is known of worth without the lengths of all requests, see envs/worth.py.
        ("by_tokens", "f8"),  # its share by tokens
        ("output_weight", "f8"),  # of an output token beside a prompt token
        ("clients", "i1"),  # whether they do anything but send and wait
        ("closed_loop", "i1"),  # turns of a session follow the answer to the turn before
        ("stops_at_ends", "i1"),  # the cluster looks at a turn's end, or a prompt's, before anything else happens
        ("ends_from", "i4"),  # the first replica on which such an end may be,
        ("ends_before", "i4"),  # and the number after that of the last one
        ("gateways", "i4"),  # K
        ("split", "i1"),  # how requests are split among them: EVENLY or BY_HASH
        ("relays", "i1"),  # answers pass through the gateway
        ("knows_log", "i1"),  # decisions see the gateway's own log
        ("count_sent", "i1"),  # what was sent since a reading is added to it
        ("scrape_period_s", "f8"),  # 0: metrics are always fresh
        ("scrape_delay_s", "f8"),
        # Where its integers begin in the arena.
        ("log_base", "i8"),  # a REPLICA_LOG for each replica and, within it, each gateway
        ("own_base", "i8"),  # an OWN for each of several gateways
        ("event_base", "i8"),  # the event queue
        ("event_room", "i8"),  # most entries of it
        ("arrival_base", "i8"),  # requests in the order of their first arrival at the gateway
        ("ended_base", "i8"),  # requests that the cluster has not looked at since their turn or prompt ended
        ("client_base", "i8"),  # a CLIENT for each request
        # The clients, see cluster/clients.py.
        ("session_goes_on", "i1"),  # after a turn that was not answered, too
        ("retry_after", "i1"),  # of what: a sum of AFTER_... bits
        ("max_retries", "i4"),
        ("retry_base_s", "f8"),
        ("retry_factor", "f8"),
        ("retry_max_s", "f8"),
        ("retry_jitter", "f8"),
    ],
    [  # KV blocks on the move, see cluster/transfers.py.
        ("transfers", "i1"),  # whether there are any
        ("transfer_live", "i1"),
        ("transfer_by_tokens", "i1"),  # migrations move tokens, whose KV is computed again
        ("transfer_gap_tokens", "i4"),  # generated meanwhile, then the request stands still
        ("transfers_at_once", "i4"),  # that a replica takes part in
        ("transfer_last_blocks", "i4"),
        ("transfer_max_stages", "i4"),
        ("transfer_base_s", "f8"),
        ("transfer_orchestration_s", "f8"),
        ("transfer_downtime_s", "f8"),
        ("transfer_slowdown", "f8"),
        ("transfer_timeout_s", "f8"),
        ("migrate_period_s", "f8"),  # between decisions about migrations; 0: there are none
        ("hands_over", "i1"),  # a replica prefills for others
        ("switches_roles", "i1"),  # roles change
        ("hand_over_orchestration_s", "f8"),
        ("hand_over_lease_s", "f8"),  # then one is given up
        ("hand_over_retry_s", "f8"),  # from one look for free blocks to the next
        ("hand_over_spare_tokens", "i4"),  # left free beside the prompt
        ("hand_over_local", "i1"),  # without free blocks a request decodes where it is
        ("hand_over_layerwise", "i1"),
        ("transfer_places", "i4"),  # most transfers at once
        ("transfer_base", "i8"),  # the first one, in the arena
        ("transfer_size", "i8"),  # from each to the next
    ],
    [  # The replicas, see cluster/faults/handlers.py.
        ("changes", "i1"),  # whether they fail, start or stop
        ("recovery", "i1"),  # what becomes of the requests of a lost one: a code of RECOVERIES
        ("failover_limit", "i4"),  # how often a request may go to another one
        ("drains", "i1"),  # requests move away from replicas that drain
        ("warm_pace", "f8"),  # of the GPU after a boot,
        ("warm_s", "f8"),  # for so long
        ("fault_base", "i8"),  # the faults of the episode, in the arena
    ],
    [  # The number of replicas, see cluster/scaling.
        ("scales", "i1"),  # whether it changes by decisions
        ("control_period_s", "f8"),  # between them
        ("least_replicas", "i4"),
        ("most_replicas", "i4"),
        ("initial_replicas", "i4"),
        ("drain_s", "f8"),
        ("replica_per_s", "f8"),  # requests that one serves within the objectives
        ("sample_base", "i8"),  # the load at the decisions so far, in the arena
        ("samples", "i4"),  # of them, kept
    ],
    [  # Tenants, see cluster/flow.py.
        ("tenants", "i4"),  # T
        ("tenant_base", "i8"),  # in the arena
        ("tenancy_base", "i8"),  # of each request, in the arena
        ("queues", "i1"),  # requests may wait at the gateway, see cluster/flow.py
        ("look_s", "f8"),  # from one look at the queue to the next
    ],
    [  # Fine-tuning in the slack, see engine/background.py.
        ("background", "i1"),  # whether a replica does any
        ("background_deadline_s", "f8"),  # by which the job is wanted; infinity: none
        ("background_worth", "f8"),  # of a token
        ("backward_base", "i8"),  # the backward passes before each request came, in the arena
    ],
)

MAX_SCALING_PARAMETERS = 7  # of one rule

# What policies remember of an episode, and what agents have set.
MEMORY = record(
    [
        ("rng", "u8"),  # stream of random numbers
        ("round_robin", "i4"),  # whose turn it is
        ("advised_replica", "i4"),  # what the rules chose that advise an agent, see envs/observation/advice.py
        # Token bucket, see policies/admission.py.
        ("bucket_tokens", "f8"),
        ("bucket_s", "f8"),
        # Additive increase, multiplicative decrease.
        ("concurrency_limit", "f8"),  # requests; below 0: not set yet
        ("window_s", "f8"),  # since when it has been as it is
        ("window_first_tokens", "i4"),  # and the counts of first tokens then
        ("window_in_time", "i4"),
        # When a request is taken back from a silent replica, see cluster/faults/silence.py.
        ("take_back_s", "f8"),  # 0: never
        ("most_resends", "i4"),  # of one request
        ("hedges", "i1"),  # it is not taken back, but sent a second time
        # Who decides about migrations, see cluster/migration.py.
        ("migration", "i4"),  # BY_CALLER or a rule
        ("migration_parameters", "f8", (5,)),
        # Who decides where prefilled requests decode, see cluster/placement.py.
        ("placed_by_caller", "i1"),
        ("placement", "i4"),  # a rule
        ("placement_parameters", "f8", (3,)),
        ("placement_turn", "i4"),  # of its round robin
        ("whole", "i1"),  # the request at the gateway is to be computed and decoded on one replica
        ("apart", "i1"),  # a flexible replica with decoding requests is to take no prompts
        # Who decides about the order of requests at the gateway, see cluster/flow.py.
        ("flow", "i4"),  # a rule
        ("flow_parameters", "f8", (FLOW_PARAMETERS,)),
        # Who decides about the number of replicas, see cluster/scaling/rules.py.
        ("scaling", "i4"),  # BY_CALLER or a rule
        ("scaling_parameters", "f8", (MAX_SCALING_PARAMETERS,)),
        ("advises", "i1"),  # whether the rule only advises, and the caller decides
        ("advice", "i4"),  # replicas that it asks for
        ("panic_until_s", "f8"),
        ("panic_most", "i4"),  # replicas asked for in the panic
        ("trend", "i4"),  # 1: more replicas are wanted in each decision since `trend_s`, -1: fewer, 0: neither
        ("trend_s", "f8"),
        ("scaled_s", "f8"),  # when the number was changed last
        # When replicas work on a fine-tuning job at the begin of an episode: the fields of a BackgroundRule.
        ("deferral_bound_s", "f8"),
        ("background_target_s", "f8"),
        ("background_allowance_s", "f8"),
        ("background_tokens", "i4"),
        ("background_flags", "i4"),
        # An admission rate that an agent sets: see envs/interval/step.py.
        ("admission_rate_per_s", "f8"),  # infinity: every request is admitted
        ("admission_credit", "f8"),  # requests that may be admitted at once
        ("credit_s", "f8"),  # when it was last brought up to date
        # A waiting queue that an agent chooses from, in the place of deferred requests: see envs/iteration/step.py.
        ("queue_first", "i4"),  # where it begins
        ("queue_size", "i4"),
        ("queue_tokens", "i8"),
        ("queue_blocks", "i8"),
        ("chosen", "i4"),  # for the iteration that is about to begin
    ],
)

# What is known of a class of requests: numbers in the arena, which begins with them.
CLASS = np.dtype(
    [
        ("value", "f8"),  # factor of its requests' worth
        ("best_effort", "f8"),  # 1 if its requests fill slack alone
    ]
)


@kernel
def reset_memory(memory, seed):
    """Forget what policies remember, as an episode of a seed begins."""
    memory.rng = seed
    memory.round_robin = 0
    memory.advised_replica = 0
    memory.take_back_s = 0.0
    memory.most_resends = 0
    memory.hedges = 0
    memory.placement_turn = 0
    memory.whole = 0
    memory.apart = 0
    memory.bucket_tokens = -1.0
    memory.bucket_s = 0.0
    memory.concurrency_limit = -1.0
    memory.window_s = 0.0
    memory.window_first_tokens = 0
    memory.window_in_time = 0
    memory.advice = 0
    memory.panic_until_s = -1.0
    memory.panic_most = 0
    memory.trend = 0
    memory.trend_s = 0.0
    memory.scaled_s = -np.inf
