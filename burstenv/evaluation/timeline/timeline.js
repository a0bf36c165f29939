// The page: panels are put up, zoomed and moved together; legends show values under the pointer.
const view = { from: 0, to: end };
let cursor = null, pointed = null; // the time under the pointer; its panel and height there

function draw(panel) {
  const { canvas } = panel, scale = devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = Math.round(width * scale); canvas.height = Math.round(height * scale);
  const c = canvas.getContext("2d");
  c.setTransform(scale, 0, 0, scale, 0, 0);
  c.font = "11px system-ui, sans-serif";
  panel.draw(panel, c, width, height);
  if (cursor !== null) {
    const x = LEFT + (width - LEFT - RIGHT) * (cursor - view.from) / (view.to - view.from);
    c.strokeStyle = css("ink"); c.lineWidth = 1; c.setLineDash([3, 3]);
    c.beginPath(); c.moveTo(x, TOP); c.lineTo(x, height - BOTTOM); c.stroke(); c.setLineDash([]);
  }
  c.restore();
  legend(panel);
}

function entries(panel) { // colour, name and value under the pointer
  const width = Math.max(data.width, (view.to - view.from) / 300), from = cursor - width / 2, until = cursor + width / 2;
  const text = (value) => cursor === null ? "" : value();
  if (panel.draw === gantt) {
    const told = pointed !== null && pointed.panel === panel ? barAt(panel, cursor, pointed.offset, panel.canvas.clientHeight) : "";
    return [["line", "waiting", ""], ["c0", "prompt", ""], ["attained", "answer", ""], ["late", "answer, late", ""], [null, "", told]];
  }
  if (panel.lines) return panel.lines.map((line, j) => ["c" + j, line.name, text(() => {
    const at = first(line.t, cursor + 1e-12) - 1;
    return at >= 0 ? number(line.v[at]) : "0";
  })]);
  if (panel.draw === share) return panel.series.map(([, shade, name]) => [shade, name, text(() => {
    const of = between(panel.whole, from, until);
    return of > 0.5 ? number(100 * between(panel.part, from, until) / of) : "none";
  })]);
  return panel.series.map(([key, shade, name]) => [shade, name, text(() => number(between(key, from, until) / width))]);
}
function legend(panel) {
  panel.legend.replaceChildren(...entries(panel).map(([shade, name, text]) => {
    const item = document.createElement("span"), value = document.createElement("b");
    if (shade !== null) {
      const mark = document.createElement("i");
      mark.style.background = css(shade);
      item.append(mark);
    }
    value.textContent = text ? " " + text : "";
    item.append(name, value);
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
function show(from, until) {
  const least = Math.min(end, Math.max(data.width / 20, 1e-6)), span = Math.min(end, Math.max(least, until - from));
  const start = Math.min(Math.max(0, from), end - span);
  view.from = start; view.to = start + span;
  redraw();
}
function zoom(factor, around) {
  const at = around === undefined ? (view.from + view.to) / 2 : around;
  show(at - (at - view.from) * factor, at + (view.to - at) * factor);
}

function choice(panel, title) { // which replica's requests are shown
  const list = document.createElement("select");
  list.setAttribute("aria-label", "replica");
  list.append(...data.replicas.map((name, r) => new Option(name, r)));
  const high = () => { panel.canvas.style.height = Math.max(120, Math.min(460, 7 * data.bars.lanes[panel.replica])) + TOP + BOTTOM + "px"; };
  list.onchange = () => { panel.replica = +list.value; high(); redraw(); };
  title.append(" ", list);
  high();
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
  if (panel.draw === gantt) choice(panel, title);
  const time = (event) => {
    const box = canvas.getBoundingClientRect();
    return view.from + (view.to - view.from) * (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
  };
  const pointers = new Map();
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(0.0015 * event.deltaY), time(event)); }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => { pointers.set(event.pointerId, event); canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) {
      cursor = Math.min(end, Math.max(0, time(event)));
      pointed = { panel, offset: event.clientY - canvas.getBoundingClientRect().top };
      redraw();
      return;
    }
    if (pointers.size === 1) { const by = time(before) - time(event); show(view.from + by, view.to + by); }
    else if (pointers.size === 2) {
      const other = [...pointers.values()].find((p) => p.pointerId !== event.pointerId);
      const was = Math.max(10, Math.abs(before.clientX - other.clientX)), is = Math.max(10, Math.abs(event.clientX - other.clientX));
      zoom(was / is, time(other));
    }
    pointers.set(event.pointerId, event);
  });
  canvas.addEventListener("pointerup", (event) => { pointers.delete(event.pointerId); if (event.pointerType === "touch") { cursor = time(event); redraw(); } });
  canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => { cursor = pointed = null; redraw(); });
  canvas.addEventListener("dblclick", () => show(0, end));
}
document.getElementById("in").onclick = () => zoom(0.5);
document.getElementById("out").onclick = () => zoom(2);
document.getElementById("all").onclick = () => show(0, end);
addEventListener("keydown", (event) => {
  if (event.target instanceof HTMLSelectElement || event.target instanceof HTMLInputElement) return;
  const span = view.to - view.from;
  const done = { ArrowLeft: () => show(view.from - span / 5, view.to - span / 5), ArrowRight: () => show(view.from + span / 5, view.to + span / 5),
    "+": () => zoom(0.5), "-": () => zoom(2), "0": () => show(0, end) }[event.key];
  if (done && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); done(); }
});
addEventListener("resize", redraw);
const recolour = () => { shades = {}; panels.forEach(draw); };
addEventListener("themechange", recolour);
addEventListener("beforeprint", () => { probe.style.colorScheme = "light"; recolour(); }); // on paper
addEventListener("afterprint", () => { probe.style.colorScheme = ""; recolour(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
redraw();
