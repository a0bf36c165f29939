"use strict";
// Numbers, times and colours of a timeline; what stands in the data, added up so that any stretch is one subtraction.
const data = JSON.parse(document.getElementById("data").textContent);
const count = data.bins.settled.length, end = count * data.width;
const LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 20;

const sums = {}; // running sums of the bins
for (const [name, values] of Object.entries(data.bins)) {
  const sum = new Float64Array(count + 1);
  for (let k = 0; k < count; k++) sum[k + 1] = sum[k] + values[k];
  sums[name] = sum;
}
const sumTo = (sum, t) => { // of the bins up to t, those cut in part
  const at = Math.min(count, Math.max(0, t / data.width)), k = Math.min(count - 1, Math.floor(at));
  return sum[k] + (sum[k + 1] - sum[k]) * (at - k);
};
const between = (name, from, to) => sumTo(sums[name], to) - sumTo(sums[name], from);

function first(times, t) { // index of the first time at or after t
  let low = 0, high = times.length;
  while (low < high) { const mid = (low + high) >> 1; times[mid] < t ? (low = mid + 1) : (high = mid); }
  return low;
}
for (const lines of [data.waiting, data.kv, data.fleet, data.moves, data.aside, data.trained]) for (const line of lines) { // their integrals, for means over any stretch
  line.area = new Float64Array(line.t.length);
  for (let k = 1; k < line.t.length; k++)
    line.area[k] = line.area[k - 1] + 0.5 * (line.v[k] + line.v[k - 1]) * (line.t[k] - line.t[k - 1]);
}
function areaTo(line, t) {
  const k = first(line.t, t);
  if (k === 0) return 0;
  if (k === line.t.length) return line.area[k - 1];
  const length = line.t[k] - line.t[k - 1], part = t - line.t[k - 1];
  const there = line.v[k - 1] + (line.v[k] - line.v[k - 1]) * part / (length || 1);
  return line.area[k - 1] + 0.5 * (line.v[k - 1] + there) * part;
}
const mean = (line, from, to) => (areaTo(line, to) - areaTo(line, from)) / (to - from);

// Colours are those of the style sheet, as the browser resolves them in the theme of the moment.
const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);
let shades = {};
const css = (name) => {
  if (!(name in shades)) { probe.style.color = "var(--" + name + ")"; shades[name] = getComputedStyle(probe).color; }
  return shades[name];
};

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

function readable(tops) { // the end of an axis that a few far higher columns do not flatten
  const sorted = tops.filter((v) => v > 0).sort((a, b) => a - b);
  if (sorted.length === 0) return 1;
  const most = sorted[sorted.length - 1], usual = sorted[Math.floor(0.98 * (sorted.length - 1))];
  return 1.08 * (most > 3 * usual ? 1.5 * usual : most);
}
