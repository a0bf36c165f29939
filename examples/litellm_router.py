"""A policy as LiteLLM's routing strategy: ``pip install litellm``.

python examples/litellm_router.py always/jsq/vllm mixed-x2 http://127.0.0.1:8101 http://127.0.0.1:8102
"""

import asyncio
import sys

import litellm

from burstenv.gateway.plugins.advisor import Advisor
from burstenv.gateway.plugins.litellm_router import PolicyStrategy


async def main(policy: str, cluster: str, *engines: str) -> None:
    """Send a few requests through a router that asks the policy."""
    deployments = [
        {
            "model_name": "tiny",
            "litellm_params": {"model": "openai/tiny", "api_base": f"{url}/v1", "api_key": "none"},
            "model_info": {"id": url},
        }
        for url in engines
    ]
    router = litellm.Router(model_list=deployments)
    PolicyStrategy(Advisor(policy, cluster), deployments).install(router)
    said = [{"role": "user", "content": "w5 w6 w7"}]
    answers = await asyncio.gather(*(router.acompletion(model="tiny", messages=said, max_tokens=8) for _ in range(8)))
    print(*(answer.choices[0].message.content for answer in answers), sep="\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
