"use strict";
// Panels over one time axis. Binned counts are added up by pixel column, lines drawn as the range they cover in it, so
// nothing that happened disappears however far one zooms out.
const data = JSON.parse(document.getElementById("data").textContent);
const count = data.bins.settled.length, end = count * data.width;
const LEFT = 46, RIGHT = 8, TOP = 6, BOTTOM = 20;
const dark = matchMedia("(prefers-color-scheme: dark)");
const view = { from: 0, to: end };
let cursor = null;

const sums = {}; // running sums of the bins, which make any range one subtraction
for (const [name, values] of Object.entries(data.bins)) {
  const sum = new Float64Array(count + 1);
  for (let k = 0; k < count; k++) sum[k + 1] = sum[k] + values[k];
  sums[name] = sum;
}
const panels = [
  { title: "Arrivals", unit: "requests/s", kind: "stacked", series: [["conversation", 0], ["api", 1]] },
  { title: "Waiting requests", unit: "", kind: "lines", lines: data.waiting },
  { title: "KV cache in use", unit: "%", kind: "lines", lines: data.kv, top: 100 },
  { title: "Preemptions and rejections", unit: "per s", kind: "stacked", series: [["preempted", 5], ["rejected", 6], ["failed", 7]] },
  { title: "Attainment by arrival", unit: "%", kind: "share", part: "attained", whole: "settled", top: 100, series: [["attained", 2]] },
];
const colour = (k) => (dark.matches ? data.dark : data.light)[k % 8];
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function clock(t, step, span = step) {
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const [size, unit] = units.find(([s]) => span >= s) || [1, "s"];
  const places = Math.max(0, Math.min(6, -Math.floor(Math.log10(step / size) + 1e-9)));
  return (t / size).toFixed(places) + " " + unit;
}
function step(span, wanted) { // a round step; in time, round in minutes, hours and days
  const rough = span / wanted;
  for (const s of [60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400, 172800, 604800])
    if (rough > 30 && rough <= s) return s;
  return round(rough);
}
const finely = (span) => { // in the unit of the span, to a thousandth of it
  const [size] = [[86400], [3600], [60], [1]].find(([u]) => span >= 2 * u) || [1];
  return size * Math.min(1, Math.pow(10, Math.floor(Math.log10(span / size / 300))));
};
function round(rough) {
  const ten = Math.pow(10, Math.floor(Math.log10(rough)));
  return [1, 2, 5, 10].map((m) => m * ten).find((s) => s >= rough * 0.999);
}
const number = (v) => v >= 100 ? v.toFixed(0) : v >= 10 ? v.toFixed(1) : v === 0 ? "0" : v.toPrecision(2);

const sumTo = (sum, t) => { // of the bins up to t, those cut in part
  const at = Math.min(count, Math.max(0, t / data.width)), k = Math.min(count - 1, Math.floor(at));
  return sum[k] + (sum[k + 1] - sum[k]) * (at - k);
};
function between(name, from, to) { return sumTo(sums[name], to) - sumTo(sums[name], from); }
function first(times, t) { // index of the first time at or after t
  let low = 0, high = times.length;
  while (low < high) { const mid = (low + high) >> 1; times[mid] < t ? (low = mid + 1) : (high = mid); }
  return low;
}

function columns(panel, width) { // values by pixel column, at least a bin wide
  const span = view.to - view.from, per = Math.max(1, Math.ceil(data.width / (span / width)));
  const out = [];
  const whole = Math.max(span * per / width, data.width);
  const origin = Math.floor(view.from / whole) * whole; // columns stay where they are while one drags
  for (let from = origin; from < view.to; from += whole) {
    const to = from + whole;
    if (panel.kind === "share") {
      const of = between(panel.whole, from, to);
      out.push({ from, to, values: [of > 0.5 ? 100 * between(panel.part, from, to) / of : null] });
    } else out.push({ from, to, values: panel.series.map(([name]) => between(name, from, to) / whole) });
  }
  return out;
}

function draw(panel) {
  const { canvas } = panel, scale = devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * scale)) { canvas.width = Math.round(width * scale); canvas.height = Math.round(height * scale); }
  const c = canvas.getContext("2d");
  c.setTransform(scale, 0, 0, scale, 0, 0);
  c.clearRect(0, 0, width, height);
  const inner = width - LEFT - RIGHT, bottom = height - BOTTOM;
  const x = (t) => LEFT + inner * (t - view.from) / (view.to - view.from);
  let cols = null, top = panel.top || 0;
  if (panel.kind !== "lines") {
    cols = columns(panel, inner / 2);
    if (!panel.top) for (const col of cols) top = Math.max(top, col.values.reduce((a, b) => a + b, 0));
  } else if (!panel.top) for (const line of panel.lines) {
    const a = Math.max(0, first(line.t, view.from) - 1), b = Math.min(line.t.length, first(line.t, view.to) + 1);
    for (let k = a; k < b; k++) top = Math.max(top, line.v[k]);
  }
  top = panel.top || (top > 0 ? top * 1.08 : 1);
  const y = (v) => bottom - (bottom - TOP) * v / top;

  c.font = "11px system-ui, sans-serif";
  c.strokeStyle = css("--line"); c.fillStyle = css("--soft"); c.lineWidth = 1;
  const sy = panel.top ? 25 : round(top / 4);
  c.textAlign = "right"; c.textBaseline = "middle";
  for (let v = 0; v <= top * 1.0001; v += sy) {
    c.beginPath(); c.moveTo(LEFT, y(v)); c.lineTo(width - RIGHT, y(v)); c.stroke();
    c.fillText(+v.toPrecision(6) + "", LEFT - 6, Math.max(y(v), 6));
  }
  const st = step(view.to - view.from, Math.max(2, inner / 110));
  c.textAlign = "center"; c.textBaseline = "top";
  for (let t = Math.ceil((view.from + data.start) / st) * st; t <= view.to + data.start; t += st) {
    const px = x(t - data.start), text = clock(t, st), half = c.measureText(text).width / 2;
    c.beginPath(); c.moveTo(px, TOP); c.lineTo(px, bottom); c.stroke();
    c.fillText(text, Math.min(Math.max(px, LEFT + half - 8), width - half - 1), bottom + 5);
  }

  c.save();
  c.beginPath(); c.rect(LEFT, 0, inner, height); c.clip();
  if (panel.kind === "stacked") {
    for (const col of cols) {
      let base = 0;
      col.values.forEach((v, k) => {
        if (v <= 0) return;
        c.fillStyle = colour(panel.series[k][1]);
        const left = x(col.from), w = Math.max(1, x(col.to) - left);
        c.fillRect(left, y(base + v), w, Math.max(v > 0 ? 1 : 0, y(base) - y(base + v)));
        base += v;
      });
    }
  } else if (panel.kind === "share") {
    c.fillStyle = colour(2); c.globalAlpha = 0.75;
    for (const col of cols) if (col.values[0] !== null) {
      const left = x(col.from);
      c.fillRect(left, y(col.values[0]), Math.max(1, x(col.to) - left), bottom - y(col.values[0]));
      c.fillRect(left, y(col.values[0]) - 1, Math.max(1, x(col.to) - left), 2);
    }
    c.globalAlpha = 1;
  } else panel.lines.forEach((line, k) => trace(c, line, k, x, y));
  if (cursor !== null) {
    c.strokeStyle = css("--ink"); c.lineWidth = 1; c.setLineDash([3, 3]);
    c.beginPath(); c.moveTo(x(cursor), TOP); c.lineTo(x(cursor), bottom); c.stroke(); c.setLineDash([]);
  }
  c.restore();
  legend(panel);
}

function trace(c, line, k, x, y) { // straight from reading to reading, over the range of those of one pixel
  c.strokeStyle = colour(k); c.lineWidth = 1.4; c.lineJoin = "round";
  c.beginPath();
  let at = Math.max(0, first(line.t, view.from) - 1), column = NaN, low = 0, high = 0, last = 0, begun = false;
  const flush = () => { c.lineTo(column, y(low)); c.lineTo(column, y(high)); c.lineTo(column, y(last)); };
  for (; at < line.t.length; at++) {
    const px = Math.round(x(line.t[at]) * 2) / 2, v = line.v[at];
    if (!begun) { c.moveTo(px, y(v)); begun = true; column = px; low = high = last = v; continue; }
    if (px === column) { low = Math.min(low, v); high = Math.max(high, v); last = v; continue; }
    flush();
    c.lineTo(px, y(v));
    column = px; low = high = last = v;
    if (line.t[at] > view.to) break;
  }
  if (begun) flush();
  c.stroke();
}

function legend(panel) {
  const entries = [];
  if (panel.kind === "lines") panel.lines.forEach((line, k) => {
    let text = "";
    if (cursor !== null) { const at = first(line.t, cursor + 1e-12) - 1; text = at >= 0 ? number(line.v[at]) : "0"; }
    entries.push([colour(k), line.name, text]);
  });
  else {
    let values = null;
    if (cursor !== null) {
      const width = Math.max(data.width, (view.to - view.from) / 300), from = cursor - width / 2, to = cursor + width / 2;
      if (panel.kind === "share") { const of = between(panel.whole, from, to); values = [of > 0.5 ? 100 * between(panel.part, from, to) / of : null]; }
      else values = panel.series.map(([name]) => between(name, from, to) / width);
    }
    panel.series.forEach(([name, k], j) => entries.push([colour(k), name, values === null ? "" : values[j] === null ? "none" : number(values[j])]));
  }
  panel.legend.replaceChildren(...entries.map(([shade, name, text]) => {
    const item = document.createElement("span"), mark = document.createElement("i"), value = document.createElement("b");
    mark.style.background = shade; value.textContent = text ? " " + text : "";
    item.append(mark, name, value);
    return item;
  }));
}

let asked = false;
function redraw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    panels.forEach(draw);
    const s = finely(view.to - view.from), wide = (view.to - view.from) / 2;
    document.getElementById("shown").textContent = cursor === null
      ? clock(view.from + data.start, s, wide) + " to " + clock(view.to + data.start, s, wide)
      : "at " + clock(cursor + data.start, s, wide);
  });
}
function show(from, to) {
  const least = Math.min(end, Math.max(data.width / 20, 1e-6)), span = Math.min(end, Math.max(least, to - from));
  const start = Math.min(Math.max(0, from), end - span);
  view.from = start; view.to = start + span;
  redraw();
}
function zoom(factor, around) {
  const at = around === undefined ? (view.from + view.to) / 2 : around;
  show(at - (at - view.from) * factor, at + (view.to - at) * factor);
}

for (const panel of panels) {
  const section = document.createElement("section"), title = document.createElement("h2"), small = document.createElement("div");
  const canvas = document.createElement("canvas");
  title.textContent = panel.title + (panel.unit && " [" + panel.unit + "]");
  small.className = "legend";
  canvas.tabIndex = 0; canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", panel.title + " over time");
  section.append(title, small, canvas);
  document.getElementById("panels").append(section);
  panel.canvas = canvas; panel.legend = small;
  const time = (event) => {
    const box = canvas.getBoundingClientRect();
    return view.from + (view.to - view.from) * (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
  };
  const pointers = new Map();
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(0.0015 * event.deltaY), time(event)); }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => { pointers.set(event.pointerId, event); canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) { cursor = Math.min(end, Math.max(0, time(event))); redraw(); return; }
    if (pointers.size === 1) { const by = time(before) - time(event); show(view.from + by, view.to + by); }
    else if (pointers.size === 2) {
      const other = [...pointers.values()].find((p) => p.pointerId !== event.pointerId);
      const was = Math.max(10, Math.abs(before.clientX - other.clientX)), is = Math.max(10, Math.abs(event.clientX - other.clientX));
      zoom(was / is, time(other));
    }
    pointers.set(event.pointerId, event);
  });
  const up = (event) => { pointers.delete(event.pointerId); if (event.pointerType === "touch") { cursor = time(event); redraw(); } };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => { cursor = null; redraw(); });
  canvas.addEventListener("dblclick", () => show(0, end));
}
document.getElementById("in").onclick = () => zoom(0.5);
document.getElementById("out").onclick = () => zoom(2);
document.getElementById("all").onclick = () => show(0, end);
addEventListener("keydown", (event) => {
  const span = view.to - view.from;
  const done = { ArrowLeft: () => show(view.from - span / 5, view.to - span / 5), ArrowRight: () => show(view.from + span / 5, view.to + span / 5),
    "+": () => zoom(0.5), "-": () => zoom(2), "0": () => show(0, end) }[event.key];
  if (done && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); done(); }
});
addEventListener("resize", redraw);
dark.addEventListener("change", redraw);
redraw();
