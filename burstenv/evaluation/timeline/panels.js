// Panels over one time axis: what each shows, and how it is drawn.
const to = data.separate ? data.replicas.map((name, r) => ["to_" + r, "c" + r, "to " + name]) : [["to_0", "c0", "routed"]];
const panels = [
  { title: "Arrivals", unit: "requests/s", draw: stacked, series: data.classes.map((name, k) => [name, "c" + k % 8, name]) },
  { title: "Decisions", unit: "per s", draw: stacked, series: [...to, ["deferred", "late", "deferred"], ["rejected", "rejected", "rejected"]] },
  ...(data.fleet.length ? [{ title: "Replicas", unit: "", draw: lines, lines: data.fleet, top: data.replicas.length }] : []),
  { title: "Waiting requests", unit: "", draw: data.separate ? piled : lines, lines: data.waiting },
  { title: "KV cache in use", unit: "%", draw: lines, lines: data.kv, top: 100 },
  ...(data.moves.length ? [{ title: "Requests that move", unit: "", draw: lines, lines: data.moves }] : []),
  ...(data.ends.length ? [{ title: "Transfers that end", unit: "per s", draw: stacked, series: data.ends }] : []),
  ...(data.aside.length ? [{ title: "KV blocks set aside", unit: "%", draw: lines, lines: data.aside }] : []),
  ...(data.trained.length ? [{ title: "Fine-tuning", unit: "tokens/s", draw: lines, lines: data.trained }] : []),
  { title: "Preemptions and failures", unit: "per s", draw: stacked, series: [["preempted", "preempted", "preempted"], ["failed", "failed", "failed"]] },
  { title: "TTFT by arrival", unit: "% of its objective", draw: points, lines: data.ttft, rule: 100 },
  { title: "TPOT by arrival", unit: "% of its objective", draw: points, lines: data.tpot, rule: 100 },
  { title: "Attainment by arrival", unit: "%", draw: share, part: "attained", whole: "settled", top: 100, series: [["attained", "attained", "attained"]] },
  { title: "Requests of replica", unit: "", draw: gantt, replica: 0 },
];

function columns(width) { // stretches of time, of 2 pixels and at least a bin
  const span = view.to - view.from, whole = Math.max(span * 2 / width, data.width), found = [];
  for (let from = Math.floor(view.from / whole) * whole; from < view.to; from += whole) found.push([from, from + whole]);
  return found; // they stay where they are while one drags
}

function frame(panel, c, width, height, top) { // axes; returns where values and times lie
  const inner = width - LEFT - RIGHT, bottom = height - BOTTOM;
  const x = (t) => LEFT + inner * (t - view.from) / (view.to - view.from);
  const y = (v) => bottom - (bottom - TOP) * v / top;
  c.strokeStyle = css("line"); c.fillStyle = css("soft"); c.lineWidth = 1;
  if (top) {
    const by = top === 100 ? 25 : Math.max(panel.top ? 1 : 0, round(top / 4));
    c.textAlign = "right"; c.textBaseline = "middle";
    for (let v = 0; v <= top * 1.0001; v += by) {
      c.beginPath(); c.moveTo(LEFT, y(v)); c.lineTo(width - RIGHT, y(v)); c.stroke();
      c.fillText(+v.toPrecision(6) + "", LEFT - 6, Math.max(y(v), 6));
    }
  }
  const by = step(view.to - view.from, Math.max(2, inner / 110));
  c.textAlign = "center"; c.textBaseline = "top";
  for (let t = Math.ceil((view.from + data.start) / by) * by; t <= view.to + data.start; t += by) {
    const px = x(t - data.start), text = clock(t, by), half = c.measureText(text).width / 2;
    c.beginPath(); c.moveTo(px, TOP); c.lineTo(px, bottom); c.stroke();
    c.fillText(text, Math.min(Math.max(px, LEFT + half - 8), width - half - 1), bottom + 5);
  }
  c.save();
  c.beginPath(); c.rect(LEFT, 0, inner, height); c.clip();
  return { x, y, bottom, inner };
}

function beyond(c, px, value) { // a column goes on above the axis
  c.fillStyle = css("ink");
  c.beginPath(); c.moveTo(px - 4, 6); c.lineTo(px + 4, 6); c.lineTo(px, 0); c.fill();
  c.textAlign = "left"; c.textBaseline = "top"; c.fillText(number(value), px + 6, 0);
}

function pile(panel, c, width, height, cols, values, shade) { // columns of parts on top of each other
  const totals = values.map((parts) => parts.reduce((a, b) => a + b, 0)), top = readable(totals);
  const at = frame(panel, c, width, height, top);
  cols.forEach(([from, until], k) => {
    let base = 0;
    values[k].forEach((v, j) => {
      if (v <= 0) return;
      c.fillStyle = css(shade(j));
      const left = at.x(from), high = at.y(Math.min(top, base + v)), low = at.y(Math.min(top, base));
      c.fillRect(left, high, Math.max(1, at.x(until) - left), Math.max(base < top ? 1 : 0, low - high));
      base += v;
    });
  });
  const above = totals.map((v, k) => [v, k]).filter(([v]) => v > top).sort((a, b) => b[0] - a[0]);
  const named = [];
  for (const [v, k] of above) { // the highest of those close together
    const px = at.x(cols[k][0]);
    if (named.every((other) => Math.abs(other - px) > 48)) { beyond(c, px, v); named.push(px); }
  }
}
function stacked(panel, c, width, height) {
  const cols = columns(width - LEFT - RIGHT);
  const values = cols.map(([from, until]) => panel.series.map(([name]) => between(name, from, until) / (until - from)));
  pile(panel, c, width, height, cols, values, (j) => panel.series[j][1]);
}
function piled(panel, c, width, height) { // means of lines on top of each other
  const cols = columns(width - LEFT - RIGHT);
  const values = cols.map(([from, until]) => panel.lines.map((line) => mean(line, from, until)));
  pile(panel, c, width, height, cols, values, (j) => "c" + j);
}

function share(panel, c, width, height) {
  const at = frame(panel, c, width, height, panel.top);
  c.fillStyle = css("attained");
  for (const [from, until] of columns(at.inner)) {
    const of = between(panel.whole, from, until);
    if (of <= 0.5) continue;
    const v = 100 * between(panel.part, from, until) / of, left = at.x(from), w = Math.max(1, at.x(until) - left);
    c.globalAlpha = 0.4; c.fillRect(left, at.y(v), w, at.bottom - at.y(v));
    c.globalAlpha = 1; c.fillRect(left, at.y(v) - 1, w, 2);
  }
}

function lines(panel, c, width, height) { // the mean of each column
  const cols = columns(width - LEFT - RIGHT);
  const values = panel.lines.map((line) => cols.map(([from, until]) => mean(line, from, until)));
  const at = frame(panel, c, width, height, panel.top || readable(values.flat()));
  values.forEach((line, j) => {
    c.strokeStyle = css("c" + j); c.lineWidth = 1.4; c.lineJoin = "round";
    c.beginPath();
    line.forEach((v, k) => c.lineTo(at.x(0.5 * (cols[k][0] + cols[k][1])), at.y(v)));
    c.stroke();
  });
}

function points(panel, c, width, height) { // as they are, beside the objective
  const seen = panel.lines.map((line) => [Math.max(0, first(line.t, view.from) - 1), Math.min(line.t.length, first(line.t, view.to) + 1)]);
  const top = readable([panel.rule, ...panel.lines.flatMap((line, j) => line.v.slice(...seen[j]))]);
  const at = frame(panel, c, width, height, top);
  c.strokeStyle = css("ink"); c.lineWidth = 1; c.setLineDash([5, 4]);
  c.beginPath(); c.moveTo(LEFT, at.y(panel.rule)); c.lineTo(width - RIGHT, at.y(panel.rule)); c.stroke(); c.setLineDash([]);
  panel.lines.forEach((line, j) => {
    c.strokeStyle = css("c" + j); c.lineWidth = 1.4;
    c.beginPath();
    for (let k = seen[j][0]; k < seen[j][1]; k++) c.lineTo(at.x(line.t[k]), at.y(Math.min(line.v[k], 1.2 * top)));
    c.stroke();
  });
}

const laneHeight = (panel, height) => (height - TOP - BOTTOM) / Math.max(1, data.bars.lanes[panel.replica]);
function barsOf(panel) { // places of the bars of a replica, by arrival
  panel.places ??= {};
  return panel.places[panel.replica] ??= data.bars.replica.map((r, k) => r === panel.replica ? k : -1).filter((k) => k >= 0);
}
function gantt(panel, c, width, height) {
  const at = frame(panel, c, width, height, 0), b = data.bars, lane = laneHeight(panel, height);
  for (const k of barsOf(panel)) {
    if (b.finish[k] < view.from || b.arrival[k] > view.to) continue;
    const y = TOP + b.lane[k] * lane, h = Math.max(1, lane - (lane > 3 ? 1 : 0));
    const part = (from, until, shade) => { c.fillStyle = css(shade); c.fillRect(at.x(from), y, Math.max(0.7, at.x(until) - at.x(from)), h); };
    part(b.arrival[k], b.scheduled[k], "line");
    part(b.scheduled[k], b.first[k], "c0");
    part(b.first[k], b.finish[k], b.late[k] ? "late" : "attained");
  }
}
function barAt(panel, t, offset, height) { // text about the bar under the pointer
  const b = data.bars, lane = Math.floor((offset - TOP) / laneHeight(panel, height));
  const k = barsOf(panel).find((j) => b.lane[j] === lane && b.arrival[j] <= t && t <= b.finish[j]);
  if (k === undefined) return "";
  return `request ${b.id[k]}: ${b.prompt[k]} prompt + ${b.output[k]} output tokens, waited ${number(b.scheduled[k] - b.arrival[k])} s, ` +
    `TTFT ${number(b.first[k] - b.arrival[k])} s, E2E ${number(b.finish[k] - b.arrival[k])} s, ${b.late[k] ? "late" : "attained"}`;
}
