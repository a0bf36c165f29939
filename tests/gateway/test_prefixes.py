"""What a gateway knows of the engines' prefix caches, from KV events or from what it sent."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

from hypothesis import given
from hypothesis import strategies as st

from burstenv.envs.observation.sessions import turn_links
from burstenv.gateway.decider import Decider
from burstenv.gateway.endless import after, text_of
from burstenv.gateway.incoming import Incoming
from burstenv.gateway.prefixes import BlockNumbers, ReportedBlocks, SentBlocks, block_keys
from burstenv.gateway.scene import scene_for_gateway
from burstenv.gateway.turns import Turns
from burstenv.gateway.world import LiveWorld
from burstenv.policies.view import View
from tests.random_examples import examples

SIZE = 4
Chain = tuple[int, ...]  # token ids of a block and all before it


@examples(100)
@given(st.data())
def test_hits_are_the_stored_blocks_that_lead_a_prompt(data: st.DataObject) -> None:
    """Against a plain model: the set of stored chains, each with the number of its copies."""
    tokens = st.lists(st.integers(0, 2), min_size=SIZE, max_size=5 * SIZE)
    blocks, model = ReportedBlocks(SIZE), {}
    for _ in range(data.draw(st.integers(1, 12))):
        ids = data.draw(tokens)
        ids = ids[: len(ids) // SIZE * SIZE]
        chains: list[Chain] = [tuple(ids[:end]) for end in range(SIZE, len(ids) + 1, SIZE)]
        if data.draw(st.booleans()):
            known = next((k for k, chain in enumerate(chains) if chain not in model), len(chains))
            begin = data.draw(st.integers(0, known))  # an engine stores what follows blocks that it has
            names = [hash(chain) for chain in chains[begin:]]
            blocks.stored(names, hash(chains[begin - 1]) if begin else None, ids[begin * SIZE :])
            for chain in chains[begin:]:
                model[chain] = model.get(chain, 0) + 1
        elif chains and chains[-1] in model:
            blocks.removed([hash(chains[-1])])
            model[chains[-1]] -= 1
            if not model[chains[-1]]:
                del model[chains[-1]]
        asked = data.draw(tokens)
        expected = 0
        while (expected + 1) * SIZE <= len(asked) and tuple(asked[: (expected + 1) * SIZE]) in model:
            expected += 1
        assert blocks.hits(block_keys(asked, SIZE)) == expected
    assert blocks.unknown == 0
    blocks.clear()
    assert len(blocks) == blocks.hits(block_keys([0] * 8, SIZE)) == 0


def test_blocks_after_one_that_was_not_heard_of_are_not_guessed() -> None:
    blocks = ReportedBlocks(SIZE)
    blocks.stored([7, 8], 6, [1] * 8)
    assert (blocks.unknown, blocks.hits(block_keys([1] * 8, SIZE))) == (2, 0)
    blocks.removed([7])


def test_what_was_sent_is_taken_to_be_cached_until_it_is_pushed_out() -> None:
    sent = SentBlocks(capacity=5)
    first, second = block_keys([1] * 12, SIZE), block_keys([2] * 12, SIZE)
    sent.note_sent(first)
    assert sent.hits(first) == sent.hits(block_keys([1] * 30, SIZE)) == 3
    sent.note_sent(second)
    assert (sent.hits(first), sent.hits(second)) == (2, 3)  # the last block of the older prompt is lost first
    sent.clear()
    assert sent.hits(second) == 0


def test_messages_that_are_missed_or_of_a_new_engine_empty_the_table() -> None:
    msgspec = pytest.importorskip("msgspec")
    pytest.importorskip("zmq")
    from burstenv.gateway.kv_events import Events

    blocks = ReportedBlocks(SIZE)
    events = Events(blocks)

    def say(number: int, *told: dict[str, object]) -> None:
        events.take([b"", number.to_bytes(8, "big"), msgspec.msgpack.encode([1.5, list(told), 0])])

    def stored(name: bytes, parent: bytes | None, *ids: int) -> dict[str, object]:
        told = {"block_hashes": [name], "parent_block_hash": parent, "token_ids": ids, "block_size": SIZE}
        return {"type": "BlockStored", "medium": "GPU", **told}

    keys = block_keys([1, 2, 3, 4, 5, 6, 7, 8], SIZE)
    say(0, stored(b"a", None, 1, 2, 3, 4))
    say(1, stored(b"b", b"a", 5, 6, 7, 8))
    assert (blocks.hits(keys), events.missed) == (2, 0)
    say(
        2,
        {"type": "BlockRemoved", "medium": "GPU", "block_hashes": [b"b"]},
        {**stored(b"z", None, *[9] * 4), "medium": "CPU"},
    )
    assert (blocks.hits(keys), len(blocks)) == (1, 1)
    say(4, stored(b"c", None, 9, 9, 9, 9))  # number 3 was missed
    assert (blocks.hits(keys), len(blocks), events.missed) == (0, 1, 1)
    say(0, stored(b"a", None, 1, 2, 3, 4))  # the engine began anew
    assert (blocks.hits(keys), len(blocks), events.missed) == (1, 1, 1)
    say(1, {"type": "AllBlocksCleared"})
    assert len(blocks) == 0


def test_numbers_of_blocks_agree_as_far_as_prompts_do() -> None:
    numbers = BlockNumbers()
    texts = [text_of(3, 0, 40), text_of(3, 0, 20) + text_of(8, 20, 40), text_of(8, 0, 9)]
    runs = [numbers.runs(block_keys(ids, SIZE)) for ids in texts]
    assert runs == [[[0, 10]], [[0, 5], [10, 5]], [[15, 2]]]


@examples(50)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=40))
def test_turns_are_linked_as_in_an_episode(sessions: list[int]) -> None:
    turns = Turns(40)
    for place, session in enumerate(sessions):
        turns.note(place, session)
    expected = turn_links(np.array(sessions))
    assert (turns.links[0, : len(sessions)] == expected).all()
    kept = np.arange(len(sessions) // 2, len(sessions))
    turns.keep(kept)
    moved = expected[kept].copy()
    moved[:, 1] = np.where(moved[:, 1] >= kept[0], moved[:, 1] - kept[0], -1)
    assert (turns.links[0, : len(kept)] == moved).all()


def test_an_answer_goes_on_with_the_text_of_its_prompt() -> None:
    for stream in (0, 5, 12, 4000):
        text = text_of(stream, 0, 9000)
        assert [after(text[:100], count) for count in range(1, 200)] == text[100:299]
        assert min(text) >= 2
        assert max(text) < 4096
    assert len({tuple(text_of(stream, 0, 16)) for stream in range(5000)}) == 5000


def _world(tables: list[SentBlocks]) -> LiveWorld:
    scene = scene_for_gateway("default", "mixed-x2", "agent:joint-v3")
    return LiveWorld(scene, "sarathi-512", cached=tables)


def _asked(stream: int, tokens: int, session: int = -1) -> Incoming:
    keys = block_keys(text_of(stream, 0, tokens), 16)
    return Incoming("", b"", "m", True, tokens, 50.0, 0, session=session, blocks=keys)


@pytest.mark.parametrize(
    ("stream", "tokens", "expected"),
    [(9, 400, 160), (9, 160, 144), (9, 100, 96), (4, 400, 0)],  # at least one token is always computed
)
def test_policies_see_the_cached_part_of_the_prompt_at_the_gateway(stream: int, tokens: int, expected: int) -> None:
    tables = [SentBlocks(1000), SentBlocks(1000)]
    world = _world(tables)
    decider = Decider("always/prefix-aware(threshold=0.3)/sarathi-512", world, "sarathi-512")
    tables[1].note_sent(block_keys(text_of(9, 0, 160), 16))
    world.arrive(_asked(8, 90), 0.5)
    world.show()
    world.note_decision(1, 0)
    world.arrive(_asked(stream, tokens), 1.0)
    decided = decider.decide()
    view = View(world.cluster, 0, world.scenario.mode_names, {}, False)
    assert [replica.prefix_hit_tokens for replica in view.replicas] == [0, expected]
    assert decided.replica == 1 or expected <= 0.3 * tokens


@pytest.mark.parametrize(("agent", "mode"), [("joint-v3(deterministic)", "sarathi-512"), ("joint-v4", "vllm")])
def test_an_agent_with_session_features_acts(agent: str, mode: str) -> None:
    tables = [SentBlocks(1000), SentBlocks(1000)]
    world = _world(tables)
    decider = Decider(f"agent:{agent}", world, mode)
    for k in range(4):
        number = world.arrive(_asked(9, 300 + 100 * k, session=5), 1.0 + k)
        decided = decider.decide()
        assert decided.admission == "admit"
        world.note_decision(1, decided.replica)
        world.note_sent(number, decided.replica)
        world.first_token(number, 1.2 + k)
        world.settle(number, "attained", 1.5 + k)
    assert world.links[0, :4].tolist() == [[0, -1], [1, 0], [2, 1], [3, 2]]
