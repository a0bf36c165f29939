"""A policy as Ray Serve's request router: it chooses the replica of a deployment for each request.

Ray Serve makes one router in each process that calls the deployment, for Serve LLM in each replica of its ingress: each
is a gateway with a log of its own. A router sees requests and their ends, not the tokens of an answer: the policy knows
what is in flight, and counts every request as unanswered to its end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ray.serve.exceptions import BackPressureError
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from burstenv.gateway.incoming import BadRequest, Incoming
from burstenv.gateway.plugins.advisor import Advice, Advisor

READ = ("messages", "prompt", "max_tokens", "max_completion_tokens", "model")  # of a request's body


class PolicyRouter(RequestRouter):
    """Asks a policy; ``request_router_kwargs`` are the arguments of ``Advisor``.

    Replicas take the places of the cluster in the order in which they come; one that goes leaves its place to the next.
    A rejected request is Ray's ``BackPressureError``, which its proxy answers with 503; a deferred one waits here.
    A request without a prompt, and replicas beyond the cluster's, are left to Ray.
    """

    def initialize_state(self, policy: str = "always/jsq/vllm", **kwargs: Any) -> None:
        """Make the policy; called by Ray Serve."""
        self._advisor = Advisor(policy, **kwargs)
        self._places: dict[str, int] = {}  # of replicas, by their ids
        self._under_way: dict[str, Advice] = {}  # by Ray's own id of the request
        for r in range(len(self._advisor.world.ledgers)):
            self._advisor.set_available(r, False)

    def _find_places(self, replicas: Sequence[RunningReplica]) -> dict[int, RunningReplica]:
        """Return the replicas by their places in the cluster."""
        present = {replica.replica_id.unique_id: replica for replica in replicas}
        for name in [name for name in self._places if name not in present]:
            self._advisor.set_available(self._places.pop(name), False)
        free = [r for r in range(len(self._advisor.world.ledgers)) if r not in self._places.values()]
        for name, place in zip([name for name in present if name not in self._places], free, strict=False):
            self._places[name] = place
            self._advisor.set_available(place, True)
        return {place: present[name] for name, place in self._places.items()}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the policy's replica alone: Ray asks again while it has no room."""
        by_place = self._find_places(candidate_replicas)
        if pending_request is None or not by_place:
            return [candidate_replicas]
        number = pending_request.metadata.internal_request_id
        advice = self._under_way.get(number)
        if advice is not None and advice.replica in by_place:
            return [[by_place[advice.replica]]]
        if advice is not None:
            self._end(number, whole=False)  # its replica has gone
        incoming = _read(self._advisor, pending_request)
        if incoming is None:
            return [candidate_replicas]
        advice = self._advisor.ask(incoming)
        while advice.admission == "defer":
            try:
                await asyncio.sleep(self._advisor.world.scenario.config.defer_s)
            except asyncio.CancelledError:
                advice.end()
                raise
            self._advisor.again(advice)
        if advice.admission == "reject":
            self._remove_pending_request_from_indices(pending_request)
            if not pending_request.future.done():
                waiting = self.num_pending_requests
                pending_request.future.set_exception(BackPressureError(waiting, waiting))
            return [candidate_replicas]  # Ray sees that the request is over
        self._under_way[number] = advice
        pending_request.future.add_done_callback(lambda told: self._end(number, False) if told.cancelled() else None)
        return [[by_place[advice.replica]]]

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Note the end of a request."""
        self._end(internal_request_id, whole=True)

    def _end(self, number: str, whole: bool) -> None:
        advice = self._under_way.pop(number, None)
        if advice is not None:
            advice.end(whole)


def _read(advisor: Advisor, pending: PendingRequest) -> Incoming | None:
    """Return the request among a call's arguments: a mapping or one of Serve LLM's requests; None without one."""
    given = [*pending.args, *pending.kwargs.values()]
    headers: dict[str, str] = {}
    for value in given:
        told = getattr(value, "headers", None)
        if isinstance(told, Mapping):
            headers = {str(name).lower(): str(text) for name, text in told.items()}
    for value in given:
        said = value if isinstance(value, Mapping) else {name: getattr(value, name, None) for name in READ}
        asked = {name: _plain(said[name]) for name in READ if said.get(name) is not None}
        if "messages" in asked or "prompt" in asked:
            try:
                return advisor.read(json.dumps(asked).encode(), headers, chat="messages" in asked)
            except (BadRequest, TypeError, ValueError):
                return None  # the engine says what is wrong with it
    return None


def _plain(value: Any) -> Any:
    """Return a value of a request as plain JSON types."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.model_dump(mode="json", exclude_none=True) if hasattr(value, "model_dump") else value
