"""Fitting: what a synthetic profile was made of comes back, and every kind of bad profile gets one sentence."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from burstenv.errors import BurstenvError
from burstenv.hardware.latency.entry import load_latency
from burstenv.hardware.latency.fit import LatencyFit, fit_profile
from burstenv.hardware.latency.fit_hinge import fit_hinge, nonnegative_fit
from burstenv.hardware.latency.tables import TablesLatency

LAYERS = 32  # of Llama-3.1-8B
DENSE = ("embedding", "layernorm", "qkv_proj", "rotary_emb", "o_proj", "gate_up_proj", "act_fn", "down_proj",
         "final_layernorm")  # fmt: skip
META = "model: meta-llama/Llama-3.1-8B\nhardware: RTX4090\narchitecture: llama\nvllm_version: 0.19.0\ntp_degrees: [1]\n"


def dense_us(layer: str, tokens: float) -> float:
    """Made up: a floor up to 256 tokens, then a line; every layer another."""
    return (1 + DENSE.index(layer)) * max(10.0, 2.0 + tokens / 32)


def attention_us(p: float, c: float, d: float, k: float) -> float:
    """Made up, and of the form that is fitted: P, context before it, decodes, context of each."""
    chunk = 5.0 + 0.01 * p + (0.02 + 1e-5 * p) * (c + (p + 1) / 2) if p else 0.0
    if p and d:
        return chunk + 2.0 * d + 0.004 * d * k + 0.001 * d * p
    return chunk + ((8.0 + d + 0.002 * d * k) if d else 0.0)


def write_profile(folder: Path, layers: tuple[str, ...] = DENSE, meta: str = META) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta.yaml").write_text(meta)
    tokens = [1, 2, 4, 8, 16, 32, 64, 128, 256, 257, 512, 1024, 2048]
    rows(folder / "dense.csv", "layer,tokens,time_us", [(n, t, dense_us(n, t)) for n in layers for t in tokens])
    sequences = [1, 2, 64, 256]
    heads = [("lm_head", n, 1000.0 + n) for n in sequences] + [("sampler", n, 25.0 + 0.5 * n) for n in sequences]
    rows(folder / "per_sequence.csv", "layer,sequences,time_us", heads)
    chunks, contexts, decodes = [16, 64, 256, 1024, 2048], [0, 128, 512, 2048, 8192], [1, 4, 16, 64, 256]
    batches = [(p, c, 0, 0) for p in chunks for c in contexts]
    batches += [(0, 0, d, k) for d in decodes for k in contexts[1:]]
    batches += [(p, c, d, k) for p in chunks for c in contexts for d in decodes for k in contexts[1:]]
    header = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"
    rows(folder / "attention.csv", header, [(*b, attention_us(*b)) for b in batches])
    return folder


def rows(path: Path, header: str, lines: list[tuple]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(lines)


def replace_line(path: Path, number: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[number] = text
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def profile(tmp_path):
    return write_profile(tmp_path / "profile")


def whole_ms(p: int, c: int, d: int, k: int) -> float:
    """One iteration of the made-up model: a chunk of p behind c tokens, d decodes behind k each."""
    once = ("embedding", "final_layernorm")
    count = {n: 1 if n in once else 2 * LAYERS if n == "layernorm" else LAYERS for n in DENSE}
    sequences = d + (p > 0)
    total_us = sum(count[n] * dense_us(n, p + d) for n in DENSE) + 1025.0 + 1.5 * sequences
    return (total_us + LAYERS * attention_us(p, c, d, k)) / 1000


def predicted_ms(fit: LatencyFit, p: int, c: int, d: int, k: int) -> float:
    return 1e3 * fit.entry.iteration_s(p, p * c + p * (p + 1) // 2, d, d * k, d + (p > 0))


@pytest.mark.parametrize(
    "batch",
    [(0, 0, 1, 128), (0, 0, 16, 2048), (0, 0, 100, 700), (256, 0, 0, 0), (700, 300, 0, 0), (1024, 2048, 0, 0),
     (64, 512, 64, 512), (300, 0, 40, 900), (2048, 0, 256, 128)],
)  # fmt: skip
def test_a_profile_comes_back(profile, batch):
    fit = fit_profile(profile)
    assert predicted_ms(fit, *batch) == pytest.approx(whole_ms(*batch), rel=0.01)


def test_the_fit_is_named_and_judged(profile):
    fit = fit_profile(profile)
    assert fit.name == "llama-3.1-8b_rtx-4090_tp1"
    assert "llama-3.1-8b on 1 x rtx-4090 (vLLM 0.19.0, 32 layers)" in fit.entry.source
    errors = {e.part: e for e in fit.entry.fit_errors}
    assert errors["whole iteration"].mean_percent < 0.5
    assert errors["whole iteration"].rows == 25 + 20 + 500
    assert errors["output head and sampler"].mean_percent < 0.01
    assert any("whole iteration" in line for line in fit.lines())
    assert fit.values()["form"] == "tables"


@pytest.mark.parametrize("form", ["tables", "hinge"])
def test_the_yaml_is_the_entry(profile, tmp_path, form):
    fit = fit_profile(profile, form)
    path = tmp_path / "mine.yaml"
    path.write_text(fit.yaml())
    loaded = load_latency(str(path))
    assert loaded.fit_errors == fit.entry.fit_errors
    for batch in ((0, 0, 20, 10_000, 20), (600, 180_300, 30, 21_000, 31)):
        assert loaded.iteration_s(*batch) == pytest.approx(fit.entry.iteration_s(*batch), rel=1e-4)


def test_a_hinge_from_a_profile_is_close_where_it_can_be(profile):
    fit = fit_profile(profile, "hinge")
    errors = {e.part.split(" (")[0]: e.mean_percent for e in fit.entry.fit_errors}
    assert errors["decode only"] < 8.0
    assert errors["prefill only"] < 10.0


def test_all_reduces_are_counted_twice_a_layer(profile, tmp_path):
    before = fit_profile(profile)
    with (profile / "dense.csv").open("a") as file:
        file.writelines(f"all_reduce,{t},50\n" for t in [1, 2, 4, 8, 16, 32, 64, 128, 256, 257, 512, 1024, 2048])
    after = fit_profile(profile)
    added_ms = predicted_ms(after, 0, 0, 16, 500) - predicted_ms(before, 0, 0, 16, 500)
    assert added_ms == pytest.approx(2 * LAYERS * 0.050)
    # and as a file of its own, by bytes: 8,192 for each token of a hidden size of 4,096
    alone = write_profile(tmp_path / "alone")
    rows(alone / "all_reduce.csv", "bytes,time_us", [(8192, 50.0), (8192 * 4096, 50.0)])
    added_ms = predicted_ms(fit_profile(alone), 0, 0, 16, 500) - predicted_ms(before, 0, 0, 16, 500)
    assert added_ms == pytest.approx(2 * LAYERS * 0.050)


def test_without_all_reduce_rows_the_link_of_the_gpu_gives_them(tmp_path):
    one = fit_profile(write_profile(tmp_path / "one"))
    two = fit_profile(write_profile(tmp_path / "two", meta=META.replace("[1]", "[2]")))
    assert two.name.endswith("_tp2")
    assert any("no all_reduce" in note for note in two.notes)
    added_ms = predicted_ms(two, 0, 0, 64, 500) - predicted_ms(one, 0, 0, 64, 500)
    assert added_ms == pytest.approx(64 * (0.020 + 64 * 8192 / 8e9 * 1e3), rel=0.05)


def test_an_unknown_layer_is_counted_once_a_layer_and_named(tmp_path):
    before = fit_profile(write_profile(tmp_path / "a"))
    more = write_profile(tmp_path / "b")
    rows(more / "qk.csv", "layer,tokens,time_us", [("qk_norm", 1, 30.0), ("qk_norm", 2048, 30.0)])
    after = fit_profile(more)
    assert any("counted once per decoder layer: qk_norm" in note for note in after.notes)
    assert predicted_ms(after, 0, 0, 4, 500) - predicted_ms(before, 0, 0, 4, 500) == pytest.approx(LAYERS * 0.030)


def test_experts_cost_what_so_many_active_ones_do(tmp_path):
    """A mixture's layer is made of 2 us for each active expert; a batch is expected to use 128 (1 - (15/16)^tokens)."""
    meta = META.replace("meta-llama/Llama-3.1-8B", "Qwen/Qwen3-30B-A3B").replace("llama\n", "qwen3_moe\n")
    folder = write_profile(tmp_path, tuple(n for n in DENSE if n not in ("gate_up_proj", "act_fn", "down_proj")), meta)
    with pytest.raises(BurstenvError, match="gate_up_proj"):
        fit_profile(folder)
    tokens = (1, 2, 4, 8, 16, 32, 64, 128, 256, 257, 512, 1024, 2048)
    active = (1, 8, 16, 32, 64, 96, 128)
    rows(folder / "moe.csv", "tokens,activated_experts,time_us", [(t, e, 2.0 * e) for t in tokens for e in active])
    fit = fit_profile(folder)
    assert fit.name == "qwen3-30b-a3b_rtx-4090_tp1"
    added_ms = predicted_ms(fit, 0, 0, 16, 512) - predicted_ms(fit, 0, 0, 1, 512)
    others = ("layernorm", "qkv_proj", "rotary_emb", "o_proj")
    assert all(dense_us(n, 16) == dense_us(n, 1) for n in others)
    experts_ms = 48 * 2.0 * 128 * ((1 - (15 / 16) ** 16) - 1 / 16) / 1000
    attention_ms = 48 * (attention_us(0, 0, 16, 512) - attention_us(0, 0, 1, 512)) / 1000
    assert added_ms == pytest.approx(experts_ms + attention_ms + 15 * 1.5 / 1000, rel=0.02)


def test_which_tensor_parallelism_was_measured_shows_in_the_output_head(tmp_path):
    folder = write_profile(tmp_path / "p", meta=META.replace("[1]", "[1, 2]"))
    assert fit_profile(folder).name.endswith("_tp1")  # 1,001 us for 1.05 GB at 1.0 TB/s
    half = [("lm_head", n, 520.0 + n) for n in (1, 256)] + [("sampler", n, 25.0) for n in (1, 256)]
    rows(folder / "per_sequence.csv", "layer,sequences,time_us", half)
    fit = fit_profile(folder)
    assert fit.name.endswith("_tp2")
    assert any("say it is 2" in note for note in fit.notes)
    assert fit_profile(folder, tensor_parallel=1).name.endswith("_tp1")  # what is given wins


def test_folders_by_tensor_parallelism(tmp_path):
    for degree in (1, 2):
        write_profile(tmp_path / f"tp{degree}")
    (tmp_path / "meta.yaml").write_text(META)
    assert fit_profile(tmp_path, tensor_parallel=2).name.endswith("_tp2")
    with pytest.raises(BurstenvError, match="several tensor parallelisms"):
        fit_profile(tmp_path)


def test_a_profile_without_mixed_batches_takes_decodes_as_they_are_alone(profile):
    lines = (profile / "attention.csv").read_text().splitlines()
    kept = [line for line in lines if line.startswith(("prefill", "0,")) or line.split(",")[2] == "0"]
    (profile / "attention.csv").write_text("\n".join(kept) + "\n")
    entry = fit_profile(profile).entry
    assert isinstance(entry, TablesLatency)
    mixed = entry.iteration_s(64, 2080, 16, 16 * 512, 17) - entry.iteration_s(64, 2080, 0, 0, 1)
    assert mixed == pytest.approx((LAYERS * attention_us(0, 0, 16, 512) + 24.0) * 1e-6, rel=0.05)


@pytest.mark.parametrize("layer", [*DENSE, "lm_head", "sampler"])
def test_a_missing_layer_is_named(tmp_path, layer):
    folder = write_profile(tmp_path / "p", tuple(n for n in DENSE if n != layer))
    if layer in ("lm_head", "sampler"):
        other = "sampler" if layer == "lm_head" else "lm_head"
        rows(folder / "per_sequence.csv", "layer,sequences,time_us", [(other, 1, 9.0), (other, 8, 9.0)])
    with pytest.raises(BurstenvError, match=f"layer '{layer}' is missing") as error:
        fit_profile(folder)
    assert "\n" not in str(error.value)


BAD: list[tuple[Callable[[Path], object], list[str]]] = [
    (lambda f: (f / "dense.csv").unlink(), ["dense.csv: no such file"]),
    (lambda f: (f / "meta.yaml").unlink(), ["meta.yaml: no such file"]),
    (lambda f: (f / "attention.csv").write_text(""), ["attention.csv: column 'prefill_chunk' is missing"]),
    (lambda f: (f / "dense.csv").write_text("layer,tokens,time_us\n"), ["dense.csv: no rows"]),
    (lambda f: (f / "dense.csv").write_text("layer,tokens\nx,1\n"), ["column 'time_us' is missing", "layer,tokens"]),
    (lambda f: replace_line(f / "dense.csv", 3, "embedding,4,nan"), ["dense.csv: row 3: time_us is nan", "positive"]),
    (lambda f: replace_line(f / "dense.csv", 3, "embedding,4,-2"), ["dense.csv: row 3: time_us is -2"]),
    (lambda f: replace_line(f / "dense.csv", 3, "embedding,4,fast"), ["row 3: time_us is 'fast', expected a number"]),
    (lambda f: replace_line(f / "attention.csv", 7, "16,0,1"), ["attention.csv: row 7", "expected a number"]),
    (lambda f: replace_line(f / "dense.csv", 3, "embedding,3,1"), ["dense.csv: layer", "has no row at"]),
    (lambda f: (f / "meta.yaml").write_text("hardware: RTX4090\n"), ["meta.yaml: key 'model' is missing"]),
    (lambda f: (f / "meta.yaml").write_text(META.replace("Llama-3.1-8B", "Lama-3.1-8B")), ["did you mean"]),
    (lambda f: (f / "meta.yaml").write_text(META.replace("RTX4090", "RTX409")), ["unknown hardware 'RTX409'"]),
    (lambda f: (f / "moe.csv").write_text("tokens,experts,time_us\n1,8,3\n"), ["moe.csv: not a readable file"]),
    (lambda f: (f / "moe.csv").write_text("tokens,activated_experts,time_us\n1,8,3\n"), ["configs/models has neither"]),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "words"), BAD, ids=[w[0] for _, w in BAD])
def test_a_bad_profile_gets_one_sentence(profile, spoil, words):
    spoil(profile)
    with pytest.raises(BurstenvError) as error:
        fit_profile(profile)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_unknown_form_and_folder(profile, tmp_path):
    with pytest.raises(BurstenvError, match="valid: tables, hinge"):
        fit_profile(profile, "spline")
    with pytest.raises(BurstenvError, match="layers must be a whole number of at least 1, got -3"):
        fit_profile(profile, layers=-3)
    with pytest.raises(BurstenvError, match="tensor_parallel must be a whole number of at least 1, got 0"):
        fit_profile(profile, tensor_parallel=0)
    with pytest.raises(BurstenvError, match="no such folder"):
        fit_profile(tmp_path / "nowhere")


# -- iterations --------------------------------------------------------------------------------------------

TRUE = (12.0, 9.0, 0.05, 4e-6, 3e-4, 0.01)  # h0 to h5


def write_iterations(path: Path, n: int = 400, noise: float = 0.02) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(n):
        p = int(rng.choice([0, 0, 1]) * rng.integers(1, 2048))
        d = int(np.exp(rng.uniform(0, 5.5)))
        a, k = p * int(rng.integers(1, 2000)), d * int(np.exp(rng.uniform(4, 8)))
        h0, h1, h2, h3, h4, h5 = TRUE
        t = max(h0, h1 + h2 * (p + d)) + h3 * a + h4 * k + h5 * d
        lines.append((p, a, d, k, t * rng.lognormal(0, noise)))
    rows(path, "P,A,D,K,milliseconds", lines)
    return path


def test_a_hinge_comes_back_from_iterations(tmp_path):
    fit = fit_profile(write_iterations(tmp_path / "mine.csv"), "hinge")
    entry = fit.entry
    got = [entry.h0_ms, entry.h1_ms, entry.h2_ms_per_token, entry.h3_ms_per_pair, entry.h4_ms_per_context_token]
    assert got == pytest.approx(TRUE[:5], rel=0.1)
    errors = {e.part: e for e in entry.fit_errors}
    assert errors["held-out fifth"].rows == 80
    assert errors["held-out fifth"].mean_percent < 2.5  # two per cent of noise is 1.6 % in the mean
    assert fit.name == "mine"


def test_bad_iterations(tmp_path):
    path = write_iterations(tmp_path / "mine.csv", 30)
    with pytest.raises(BurstenvError, match="hinge form only"):
        fit_profile(path, "tables")
    replace_line(path, 4, "1,1,0,0,-3")
    with pytest.raises(BurstenvError, match="row 4: milliseconds is -3"):
        fit_profile(path, "hinge")
    replace_line(path, 4, "1,one,0,0,3")
    with pytest.raises(BurstenvError, match="row 4: A is 'one', expected a number"):
        fit_profile(path, "hinge")
    with pytest.raises(BurstenvError, match="10 iterations are too few"):
        fit_profile(write_iterations(tmp_path / "few.csv", 10), "hinge")
    path.write_text("P,A,D,milliseconds\n1,1,1,1\n")
    with pytest.raises(BurstenvError, match="column 'K' is missing"):
        fit_profile(path, "hinge")


def test_nonnegative_fit_is_the_constrained_optimum():
    rng = np.random.default_rng(3)
    for _ in range(20):
        columns = rng.uniform(0, 1, (40, 4)) * [1.0, 10.0, 1e3, 1e6]
        measured = columns @ (rng.uniform(-1, 1, 4) / [1.0, 10.0, 1e3, 1e6]) + 3.0
        found = nonnegative_fit(columns, measured)
        assert (found >= 0).all()
        gradient = (columns / measured[:, None]).T @ (columns @ found / measured - 1.0) * [1.0, 0.1, 1e-3, 1e-6]
        assert (gradient > -1e-6).all()  # nothing to gain from any column
        assert np.abs(gradient[found > 0]).max(initial=0.0) < 1e-6


def test_a_hinge_without_a_kink_is_found():
    n = np.arange(1.0, 500.0)
    zero = np.zeros_like(n)
    fitted = fit_hinge(n, zero, zero, zero, 5.0 + 0.1 * n)
    assert 1e3 * fitted.iteration_s(100, 0, 0, 0, 1) == pytest.approx(15.0, rel=0.01)
