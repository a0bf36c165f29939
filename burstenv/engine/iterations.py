"""The numbers of a replica's iterations, and the one under way, compiled."""

from __future__ import annotations

from burstenv._jit.decorators import kernel


@kernel
def last_ended_iteration(engine):
    """Return the number of the last iteration that has ended; the first has number 1."""
    replica, spec = engine.replica, engine.spec
    if spec.general or spec.depth > 1:
        return replica.ended_iterations
    return replica.iterations - replica.in_flight


@kernel
def next_iteration(engine):
    """Return the number of the iteration that is scheduled next, or being scheduled."""
    replica = engine.replica
    return last_ended_iteration(engine) + replica.in_flight + 1


@kernel
def leave_out(engine, request):
    """Note that the iteration being scheduled leaves a decoder out; the negative number: the one before did so too."""
    number = next_iteration(engine)
    request.left_at = -number if is_left_out(request, number - 1) else number


@kernel
def is_left_out(request, number):
    """Return whether an iteration, the last one scheduled or the one before, left a decoder out."""
    left_at = request.left_at
    return left_at == number or left_at == -number or left_at == -number - 1


@kernel
def is_set_back(engine, request):
    """Return whether a decoder is a step back in advance: the newest iteration in flight steps all and omits it."""
    replica, spec = engine.replica, engine.spec
    return replica.in_flight == spec.depth and is_left_out(request, last_ended_iteration(engine) + spec.depth)


@kernel
def runs_beyond(engine, until_s):
    """Return whether nothing is scheduled and nothing ends on the replica up to ``until_s``."""
    replica, spec = engine.replica, engine.spec
    return (replica.in_flight == spec.depth or replica.under_way) and replica.iteration_end_s > until_s
