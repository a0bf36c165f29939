"""A policy as Ray Serve's request router: ``pip install 'ray[serve]'``.

python examples/ray_router.py always/jsq/vllm mixed-x2

Serve LLM takes the same ``request_router_config`` in the ``deployment_config`` of its ``LLMConfig``.
"""

import asyncio
import sys

from ray import serve
from ray.serve.config import RequestRouterConfig


@serve.deployment(max_ongoing_requests=256)
class Engine:
    """A model: here one that waits as long as its answer is."""

    async def chat(self, asked: dict) -> str:
        """Answer a request."""
        await asyncio.sleep(0.02 * asked["max_tokens"])
        return f"{asked['max_tokens']} tokens from {serve.get_replica_context().replica_tag}"


def main(policy: str, cluster: str, replicas: int = 2) -> None:
    """Send a few requests to a deployment whose router asks the policy."""
    config = RequestRouterConfig(
        request_router_class="burstenv.gateway.plugins.ray_router:PolicyRouter",
        request_router_kwargs={"policy": policy, "cluster": cluster},
    )
    deployment = Engine.options(num_replicas=replicas, request_router_config=config)
    engine = serve.run(deployment.bind(), route_prefix=None)
    said = [{"role": "user", "content": "w5 w6 w7"}]
    answers = [engine.chat.remote({"messages": said, "max_tokens": 8 + k}) for k in range(8)]
    print(*(answer.result() for answer in answers), sep="\n")
    serve.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:4]))
