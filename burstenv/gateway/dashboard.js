"use strict";
(() => {
  const KEPT_S = 120, WIDTH = 440, HEIGHT = 200, LEFT = 44, BOTTOM = 18, TOP = 8;
  const at = (id) => document.getElementById(id);
  const history = [];
  const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(1)} %`);
  const ms = (seconds) => (seconds === null ? "–" : `${(1000 * seconds).toFixed(seconds < 0.1 ? 1 : 0)} ms`);

  function row(cells, out) {
    const line = document.createElement("tr");
    if (out) line.className = "out";
    cells.forEach((cell, k) => {
      const place = document.createElement(k ? "td" : "th");
      if (cell instanceof Node) place.append(cell); else place.textContent = cell;
      line.append(place);
    });
    return line;
  }

  function bar(share) {
    if (share === null) return "–";
    const box = document.createElement("span"), outer = document.createElement("span"), inner = document.createElement("i");
    outer.className = "bar";
    inner.style.width = `${Math.min(100, 100 * share)}%`;
    outer.append(inner);
    box.append(outer, percent(share));
    return box;
  }

  function draw(id, of, top, text) {
    const now = history[history.length - 1].now_s;
    const x = (t) => LEFT + (WIDTH - LEFT - 4) * (1 - (now - t) / KEPT_S), y = (v) => TOP + (HEIGHT - BOTTOM - TOP) * (1 - v / top);
    let parts = "";
    for (const share of [0, 0.5, 1]) {
      parts += `<path class="grid" d="M${LEFT} ${y(top * share)}H${WIDTH - 4}"/><text x="${LEFT - 4}" y="${y(top * share)}" dy="3.5" text-anchor="end">${text(top * share)}</text>`;
    }
    for (const back of [120, 60, 0]) {
      parts += `<text x="${x(now - back)}" y="${HEIGHT - 4}" text-anchor="${back === 120 ? "start" : back ? "middle" : "end"}">${back ? `-${back} s` : "now"}</text>`;
    }
    history[history.length - 1].replicas.forEach((_, r) => {
      let path = "", down = true;
      for (const state of history) {
        const value = state.replicas[r] && of(state.replicas[r]);
        if (value === null || value === undefined) { down = true; continue; }
        path += `${down ? "M" : "L"}${x(state.now_s).toFixed(1)} ${y(Math.min(top, value)).toFixed(1)}`;
        down = false;
      }
      if (path) parts += `<path class="line s${r % 8}" style="fill:none" d="${path}"/>`;
    });
    at(id).innerHTML = parts;
  }

  function show(state) {
    history.push(state);
    while (history[0].now_s < state.now_s - KEPT_S || history[0].now_s > state.now_s) history.shift();
    const total = Object.values(state.counts).reduce((sum, count) => sum + count, 0);
    at("policy").textContent = state.policy;
    at("attainment").textContent = percent(state.attainment);
    at("rate").textContent = state.rate_per_s.toFixed(1);
    at("flying").textContent = state.in_flight;
    at("deferred").textContent = state.deferred;
    at("total").textContent = total;
    at("ends").textContent = Object.entries(state.counts).map(([name, count]) => `${count} ${name}`).join(", ") || "since the gateway began";
    at("replicas").replaceChildren(...state.replicas.map((replica) => row([
      replica.name, replica.available ? "available" : `out: ${replica.reason}`, replica.waiting, replica.running, bar(replica.kv_used),
      replica.context_tokens, ms(replica.ttft_s), ms(replica.tpot_s), replica.sent, replica.ejections,
    ], !replica.available)));
    at("last").replaceChildren(...state.last.map((request) => row([
      `${request.arrival_s.toFixed(2)} s`, request.class, request.prompt_tokens, request.output_tokens,
      request.replica === null ? "–" : request.replica, ms(request.ttft_s), request.outcome,
    ])));
    const most = Math.max(4, ...history.flatMap((s) => s.replicas.map((replica) => replica.waiting + replica.running)));
    draw("load", (replica) => replica.waiting + replica.running, 2 * Math.ceil(most / 2), (value) => value);
    draw("kv", (replica) => replica.kv_used, 1, (value) => `${100 * value} %`);
    if (at("legend").children.length !== state.replicas.length) {
      at("legend").replaceChildren(...state.replicas.map((replica, r) => {
        const item = document.createElement("li"), name = document.createElement("span");
        item.innerHTML = `<svg class="key" viewBox="0 0 26 12" aria-hidden="true"><path class="line s${r % 8}" d="M0 6H26"/></svg>`;
        name.textContent = replica.name;
        item.append(name);
        return item;
      }));
    }
  }

  async function ask() {
    try {
      const answer = await fetch("dashboard/state", { cache: "no-store" });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      show(await answer.json());
      at("state").textContent = "live";
    } catch (error) {
      at("state").textContent = `no answer (${error.message})`;
    }
    setTimeout(ask, 1000);
  }
  ask();
})();
