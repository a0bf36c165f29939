"""The vote of several networks on one decision, or the choice of the one that makes it, compiled."""

from __future__ import annotations

from burstenv._jit.decorators import entry, kernel, outlined


@kernel
def _votes_for(ballots, m):
    """Return how many members chose what member ``m`` did."""
    votes = 0
    for n in range(ballots.shape[0]):
        equal = True
        for k in range(ballots.shape[1]):
            if ballots[n, k] != ballots[m, k]:
                equal = False
        if equal:
            votes += 1
    return votes


@kernel
def _is_before(one, other):
    """Return whether an action has a lesser index than another, the first component first."""
    for k in range(one.shape[0]):
        if one[k] != other[k]:
            return one[k] < other[k]
    return False


@outlined
def elect(ballots, flat, action):
    """Write the members' joint choice into ``action``, (C,); return how many of them made it.

    It is the choice of most members and, among choices of equally many, that of the least index. In the flat form
    members vote twice, as one network chooses (see ``inference.choose``): on rejection, which half of them suffice for;
    then those that admit on the replica.

    Args:
        ballots: (M, C) int64, the choice of each member.
        flat: Whether the one component is rejection followed by replicas.
        action: (C,) int64, written.
    """
    count = ballots.shape[0]
    rejections = 0
    if flat:
        for m in range(count):
            if ballots[m, 0] == 0:
                rejections += 1
    rejected = flat and 2 * rejections >= count
    best, most = 0, 0
    for m in range(count):
        if flat and (ballots[m, 0] == 0) != rejected:
            continue
        votes = _votes_for(ballots, m)
        if votes > most or (votes == most and _is_before(ballots[m], ballots[best])):
            best, most = m, votes
    for k in range(action.shape[0]):
        action[k] = ballots[best, k]
    return most


@kernel
def nearest(loads, load):
    """Return the index of the load that is nearest to one; of two equally near, the lower."""
    best = 0
    for m in range(1, len(loads)):
        if abs(loads[m] - load) < abs(loads[best] - load):
            best = m
    return best


@entry
def elect_all(ballots, flat, actions):
    """Write the joint choices, (N, C), of the members' choices, (N, M, C)."""
    for i in range(ballots.shape[0]):
        elect(ballots[i], flat, actions[i])
