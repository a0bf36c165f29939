"""The record of a composite policy for the kernel: three rule codes, their parameters and sources."""

from __future__ import annotations

import numpy as np

MAX_PARAMETERS = 4  # of one rule

POLICY = np.dtype(
    [
        ("admission", "i4"),  # rule codes, see admission.py and routing.py
        ("routing", "i4"),
        ("mode", "i4"),  # batching mode of the scenario, by index
        ("sees_cache", "i4"),  # whether a rule reads KV use or context
        ("admission_source", "i4"),  # of a rule's knowledge of load, see known_load.py
        ("routing_source", "i4"),
        ("health", "i8"),  # rule code, see health.py; wide: no padding lies between the fields
        ("admission_parameters", "f8", (MAX_PARAMETERS,)),
        ("routing_parameters", "f8", (MAX_PARAMETERS,)),
        ("health_parameters", "f8", (MAX_PARAMETERS,)),
    ],
    align=True,
)
