"""Measured aggregates: reading them as published, replaying them, and what is refused or warned of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from burstenv.cli.main import main
from burstenv.errors import BurstenvError
from burstenv.evaluation.validation.aggregates import validate_points
from burstenv.evaluation.validation.routers import validate_routers
from burstenv.evaluation.validation.served_points import read_points
from burstenv.evaluation.validation.served_replay import replay_point
from burstenv.evaluation.validation.server import NOT_MODELLED, ServerOptions
from burstenv.evaluation.validation.suite import validate_suite
from burstenv.hardware.host import FrontEndConfig

HEADER = "gpu,model,tensor_parallel,rate_per_s,requests,prompt_tokens,output_tokens,tpot_mean_ms,ttft_mean_ms"
ROW = "H100,Qwen/Qwen3-14B,1,4,300,500,100,12,40"
MINIMAL = ServerOptions(kv_tokens=100_000)


def points_file(folder: Path, header: str = HEADER, *rows: str) -> Path:
    path = folder / "points.csv"
    path.write_text("\n".join((header, *(rows or (ROW,)))) + "\n")
    return path


# Measured by others, figures as published: rows of inference-sim's stages of vLLM 0.15.1 on H100 (rate/s, TPOT, E2E
# and TTFT [ms], 575 + 248 tokens, about 72 distinct prompts), and of ai-dynamo/aiconfigurator's closed loop of
# Qwen3-32B on vLLM 0.12.0 (tensor parallelism, clients, TPOT [ms], 1,024 + 512 tokens).
STAGES = (
    ("Qwen/Qwen3-14B", 1, 8, 13.2386, 3311.6, 41.676), ("Qwen/Qwen3-14B", 1, 2.5, 12.0625, 3017.6, 38.141),
    ("meta-llama/Llama-3.1-8B-Instruct", 1, 8, 7.5606, 1892.7, 25.226),
    ("meta-llama/Llama-3.1-8B-Instruct", 1, 20, 9.102, 2278.1, 29.875),
    ("meta-llama/Llama-2-7b-hf", 1, 8, 8.2206, 2057.6, 27.109),
    ("meta-llama/Llama-2-70b-hf", 4, 2.5, 16.3842, 4096.8, 49.866),
    ("meta-llama/Llama-2-70b-hf", 4, 8, 18.7085, 4678.4, 57.389),
    ("codellama/CodeLlama-34b-Instruct-hf", 2, 6, 14.5076, 3626.4, 43.064),
)  # fmt: skip
CLOSED_LOOP = (
    (2, 8, 16.478), (4, 16, 11.853), (8, 32, 10.897), (2, 16, 17.881), (4, 32, 14.182), (8, 64, 14.247),
    (2, 32, 20.996), (4, 64, 18.518), (8, 128, 21.291),
)  # fmt: skip


def test_public_stages_of_a_server_are_met(tmp_path):
    header = (
        "gpu,model,tensor_parallel,vllm,max_num_batched_tokens,max_num_seqs,max_model_len,rate_per_s,duration_s,"
        "prompt_tokens,output_tokens,unique_prompts,tpot_mean_ms,e2e_mean_ms,ttft_mean_ms"
    )
    rows = [
        f"H100,{model},{degree},0.15.1,2048,128,4096,{rate},600,575,248,45 to 100,{tpot},{e2e},{ttft}"
        for model, degree, rate, tpot, e2e, ttft in STAGES
    ]
    validation = validate_points(points_file(tmp_path, header, *rows))
    for metric, percent in (("TPOT", 5.0), ("E2E", 5.0), ("TTFT", 8.0)):
        errors = np.abs(validation.errors(f"{metric} mean"))
        assert np.median(errors) <= percent, validation.summary()
        assert errors.max() <= 20.0, validation.summary()


def test_tensor_parallel_servers_in_a_closed_loop_are_met_and_the_right_shape_wins(tmp_path):
    header = "gpu,model,engine,tensor_parallel,concurrency,prompt_tokens,output_tokens,tpot_mean_ms"
    rows = [f"H100 SXM,Qwen/Qwen3-32B,vllm 0.12.0,{n},{clients},1024,512,{tpot}" for n, clients, tpot in CLOSED_LOOP]
    validation = validate_points(points_file(tmp_path, header, *rows))
    assert np.abs(validation.errors("TPOT mean")).max() <= 5.0
    assert (validation.agreement.groups, validation.agreement.winners) == (3, 3)
    assert (validation.agreement.pairs, validation.agreement.agreed) == (9, 9)


def test_routers_rank_as_on_real_replicas(tmp_path):
    """Two rates of llm-d's comparison (8 replicas of Qwen3-32B): with metrics a second old, load herds below random."""
    measured = {
        "3.0": {"precise": (0.291, 1219.1), "load": (0.944, 1274.8), "random": (0.622, 1314.0)},
        "30.0": {"precise": (0.296, 9221.8), "load": (32.831, 4888.7), "random": (32.212, 4636.3)},
    }
    record = {
        "model": "qwen3-32b", "gpu": "H100", "tensor_parallel": 2, "replicas": 8, "kv_tokens_per_replica": 307_328,
        "groups": 150, "prompts_per_group": 5, "shared_prefix_tokens": 6000, "question_tokens": 1200,
        "output_tokens": 1000,
        "stages": [{"rate_per_s": r, "duration_s": d} for r, d in ((15, 50), (3, 20), (30, 25))],
        "measured": {
            rate: {f"{k}-scheduling": {"ttft_mean_s": t, "output_tokens_per_s": o} for k, (t, o) in of.items()}
            for rate, of in measured.items()
        },
    }  # fmt: skip
    path = tmp_path / "routers.json"
    path.write_text(json.dumps(record))
    validation = validate_routers(path)
    assert validation.pairs() == (6, 6)
    assert validation.gains()[1] == pytest.approx(validation.gains()[0], rel=0.25)
    path.write_text(json.dumps({**record, "groups": None, "measured": {}}))
    with pytest.raises(BurstenvError, match="none of the routers"):
        validate_routers(path)


NAMES = (
    ("tp,isl,osl,qps,mean_ttft_ms,median_tpot_ms", "2,1000,200,3,55,9", ("TTFT mean", "TPOT p50"), 3.0),
    ("tensor_parallel_size,input_len,output_len,max_concurrency,p99_e2el_s", "2,1000,200,3,5.5", ("E2E p99",), 3.0),
    ("TP,prompt tokens,Output Tokens,request_rate,TPOT mean [ms]", '2,"1,000",200,3,9', ("TPOT mean",), 3.0),
)


@pytest.mark.parametrize(("header", "row", "measured", "amount"), NAMES)
def test_columns_go_by_the_names_that_people_write(tmp_path, header, row, measured, amount):
    (point,) = read_points(points_file(tmp_path, header, row))
    assert (point.tensor_parallel, point.prompt_tokens, point.output_tokens, point.amount) == (2, 1000, 200, amount)
    assert tuple(point.measured) == measured
    assert all(1e-3 < value < 10 for value in point.measured.values())  # in seconds


BAD = (
    (HEADER.replace("rate_per_s", "speed"), ROW, "a column is missing: rate_per_s, concurrency or requests_at_once"),
    (HEADER.replace("prompt_tokens", "words"), ROW, "a column is missing: prompt_tokens or isl"),
    ("gpu,model,rate_per_s,prompt_tokens,output_tokens", "H100,Qwen/Qwen3-14B,4,500,100", "a measured time such as"),
    (HEADER, ROW.replace(",12,40", ",soon,40"), "row 2: TPOT mean must be a number, got 'soon'"),
    (HEADER, ROW.replace(",12,40", ",,"), "row 2: nothing was measured"),
    (HEADER, ROW.replace(",500,", ",none,"), "row 2: prompt_tokens must be a number of tokens, got 'none'"),
    (HEADER, ROW.replace(",4,300", ",,300"), "row 2: one of rate_per_s, concurrency, requests_at_once"),
    (HEADER, ROW.replace("H100", ""), "does not say on which GPU it ran; add --gpu NAME"),
    (HEADER, ROW.replace("Qwen/Qwen3-14B", ""), "does not say which model ran; add --model NAME"),
    (HEADER, ROW.replace("H100", "H1000"), "unknown hardware 'H1000'.*--gpu NAME"),
    (HEADER, ROW.replace("Qwen3-14B", "Qwen9-14B"), "unknown model 'Qwen/Qwen9-14B'.*--model NAME"),
    *(
        (f"{HEADER},{flag}", f"{ROW},{value}", f"{flag} is {value}.*not modelled")
        for flag, value in (("data_parallel_size", "8"), ("enable_expert_parallel", "true"), ("dp", "2"))
    ),
)


@pytest.mark.parametrize(("header", "row", "words"), BAD)
def test_a_bad_file_gets_one_sentence(tmp_path, header, row, words):
    with pytest.raises(BurstenvError, match=words) as error:
        validate_points(points_file(tmp_path, header, row))
    assert "\n" not in str(error.value)


def test_what_is_not_modelled_is_named(tmp_path):
    header, row = f"{HEADER},kv_cpu_offload,speculative_config,dp,mood", f"{ROW},no,ngram,1,fine"
    notes = " ".join(validate_points(points_file(tmp_path, header, row), MINIMAL).notes)
    assert "speculative_config ngram is not modelled" in notes
    assert "mood" in notes
    assert "kv_cpu_offload no" not in notes
    assert NOT_MODELLED["dp"] not in notes


def test_options_come_before_the_record(tmp_path):
    (point,) = read_points(points_file(tmp_path))
    base = replay_point(point, MINIMAL).values
    slow = replay_point(point, ServerOptions(kv_tokens=100_000, gpu="a100-80g")).values
    assert slow["TPOT mean"] > 1.3 * base["TPOT mean"]
    bare = replay_point(point, ServerOptions(kv_tokens=100_000, front_end=False)).values
    assert base["TTFT mean"] - bare["TTFT mean"] == pytest.approx(FrontEndConfig().delay_s(500))
    assert base["TPOT mean"] == pytest.approx(bare["TPOT mean"])
    waiting = replay_point(point, ServerOptions(kv_tokens=100_000, asynchronous=False)).values
    assert waiting["TPOT mean"] > base["TPOT mean"]  # the host's time is not hidden
    over_pcie = ServerOptions(kv_tokens=100_000, tensor_parallel=2, link="pcie-5")
    assert replay_point(point, over_pcie).values["TPOT mean"] > replay_point(
        point, ServerOptions(kv_tokens=100_000, tensor_parallel=2)
    ).values["TPOT mean"]  # fmt: skip


def test_a_lone_request_takes_its_iterations(tmp_path):
    header = HEADER.replace("rate_per_s", "concurrency") + ",e2e_mean_ms,requests_per_s"
    (point,) = read_points(points_file(tmp_path, header, ROW.replace(",4,300,", ",1,40,") + ",1,1"))
    replay = replay_point(point, MINIMAL)
    latency, front_s = replay.server.latency, FrontEndConfig().delay_s(500)
    decode_s = latency.iteration_s(0, 0, 1, 550, 1)
    assert replay.values["TTFT mean"] == pytest.approx(latency.lone_prefill_s(500) + front_s, rel=1e-6)
    assert replay.values["TPOT mean"] == pytest.approx(decode_s, rel=2e-3)
    assert replay.values["requests/s"] == pytest.approx(1.0 / replay.values["E2E mean"], rel=1e-2)


def test_repeated_prompts_are_found_in_the_prefix_cache(tmp_path):
    other, same = read_points(
        points_file(tmp_path, f"{HEADER},unique_prompts", f"{ROW},", f"{ROW},about 8 to 12 (of a pool)")
    )
    assert (other.unique_prompts, same.unique_prompts) == (None, 10)
    assert replay_point(same, MINIMAL).values["TTFT mean"] < 0.8 * replay_point(other, MINIMAL).values["TTFT mean"]


def test_one_command_one_table_one_median_line(tmp_path, capsys):
    path = points_file(tmp_path, HEADER, ROW, ROW.replace(",4,300", ",8,300"))
    assert main(["validate", str(path), "--kv-tokens", "100000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("median error of 2 points: TPOT ")
    assert main(["validate", str(path), "--kv-tokens", "100000", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["points"]) == 2


def test_the_picture_of_points_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    validate_points(points_file(tmp_path), MINIMAL, tmp_path / "points.html")
    assert (tmp_path / "points.html").read_bytes().startswith(b"<!doctype html>")


def test_a_suite_takes_all_of_a_folder_and_names_what_it_cannot(tmp_path):
    (tmp_path / "deep").mkdir()
    points_file(tmp_path / "deep")
    points_file(tmp_path, f"{HEADER},dp", f"{ROW},8")
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    (tmp_path / "kv.csv").write_text("model,gpu,tensor_parallel,kv_tokens\nqwen3-32b,h100,2,307328\n")
    suite = validate_suite(tmp_path, ServerOptions(), tmp_path / "page.md")
    assert len(suite.results) == 2
    assert len(suite.skipped) == 1
    assert "dp is 8" in suite.skipped[0]
    page = (tmp_path / "page.md").read_text()
    assert "llama-2-70b_h100_tp4" in page
    assert "median error of 1 points" in page
    with pytest.raises(BurstenvError, match="nothing to validate"):
        validate_suite(_empty(tmp_path))


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def test_a_peer_s_folder_is_told_apart_from_a_recorded_schedule(tmp_path, capsys):
    points_file(tmp_path)
    assert main(["validate", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "points.csv" in said
    assert "--suite" in said
    assert main(["validate", str(tmp_path / "nowhere")]) == 1
    assert "no such file or folder" in capsys.readouterr().err
