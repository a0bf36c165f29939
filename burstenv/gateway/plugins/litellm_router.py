"""A policy as LiteLLM's custom routing strategy.

LiteLLM sees requests and whole answers, not the tokens of a stream: the policy knows what is in flight, and counts
every request as unanswered to its end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import litellm
from litellm.integrations.custom_logger import CustomLogger
from litellm.types.router import CustomRoutingStrategyBase

from burstenv.gateway.plugins.advisor import Advice, Advisor


class PolicyStrategy(CustomRoutingStrategyBase, CustomLogger):
    """Chooses among the deployments of a router; a rejected or deferred request is LiteLLM's ``RateLimitError``.

    Args:
        advisor: The policy.
        deployments: The router's model list: one deployment for each replica, in the order of the cluster.
    """

    def __init__(self, advisor: Advisor, deployments: Sequence[dict[str, Any]]):
        super().__init__()
        self._advisor, self._deployments = advisor, deployments
        self._under_way: dict[str, Advice] = {}

    def install(self, router: litellm.Router) -> None:
        """Make a router ask this policy, and report to it how requests end."""
        register = getattr(router, "register_plugin", None)  # LiteLLM's name for it from 1.110 on
        (register or router.set_custom_routing_strategy)(self)
        litellm.callbacks.append(self)

    def get_available_deployment(
        self, model: str, messages: Any = None, input: Any = None, specific_deployment: Any = False,
        request_kwargs: Any = None,
    ) -> Any:  # fmt: skip
        """Return the deployment of the policy's replica."""
        asked = {"messages": messages} if messages else {"prompt": input or " "}
        kwargs = request_kwargs or {}
        asked |= {name: kwargs[name] for name in ("max_tokens", "max_completion_tokens") if kwargs.get(name)}
        incoming = self._advisor.read(json.dumps(asked).encode(), chat=bool(messages))
        advice = self._advisor.ask(incoming)
        while advice.admission == "defer":  # it cannot wait here
            advice = self._advisor.again(advice)
        if advice.admission == "reject":
            raise litellm.RateLimitError("the policy rejected the request; try again later", "burstenv", model)
        call = str(kwargs.get("litellm_call_id") or "")
        if call:
            self._under_way[call] = advice
        else:
            advice.end()  # its end cannot be told from others'
        return self._deployments[advice.replica]

    async def async_get_available_deployment(
        self, model: str, messages: Any = None, input: Any = None, specific_deployment: Any = False,
        request_kwargs: Any = None,
    ) -> Any:  # fmt: skip
        """Return the deployment of the policy's replica."""
        return self.get_available_deployment(model, messages, input, specific_deployment, request_kwargs)

    def _ended(self, kwargs: Any, whole: bool) -> None:
        advice = self._under_way.pop(str(kwargs.get("litellm_call_id") or ""), None)
        if advice is not None:
            advice.end(whole)

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """Note a whole answer."""
        self._ended(kwargs, True)

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """Note a request that failed."""
        self._ended(kwargs, False)
