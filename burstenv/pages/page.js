"use strict";
// What every page does: its theme, tables that sort and filter, hints at what lies beyond an edge.
(() => {
  const root = document.documentElement, themes = ["system", "light", "dark"], kept = "burstenv-theme";
  const button = document.getElementById("theme");
  const recall = () => { try { return localStorage.getItem(kept); } catch { return null; } };
  const choose = (theme) => {
    if (theme === "system") delete root.dataset.theme; else root.dataset.theme = theme;
    button.textContent = "theme: " + theme;
    try { localStorage.setItem(kept, theme); } catch { /* a page from a file may not keep anything */ }
    dispatchEvent(new Event("themechange"));
  };
  button.onclick = () => choose(themes[(themes.indexOf(root.dataset.theme || "system") + 1) % 3]);
  button.hidden = false;
  if (themes.includes(recall())) choose(recall());

  const value = (cell) => { // the number a cell begins with; null where it begins with none
    const found = cell.textContent.trim().replace(/,(?=\d{3})/g, "").match(/^[<~]?\s*([-+]?\d+(\.\d+)?(e[-+]?\d+)?)/i);
    return found ? parseFloat(found[1]) : null;
  };
  const sort = (table, column, ascending) => {
    const rows = [...table.tBodies[0].rows].map((row) => ({ row, text: row.cells[column].textContent.trim(), number: value(row.cells[column]) }));
    const numeric = column > 0 && rows.some((r) => r.number !== null), way = ascending ? 1 : -1;
    rows.sort((a, b) => {
      if (!numeric) return way * a.text.localeCompare(b.text, "en", { numeric: true });
      if (a.number === null || b.number === null) return (a.number === null) - (b.number === null);
      return way * (a.number - b.number);
    });
    table.tBodies[0].append(...rows.map((r) => r.row));
  };
  for (const table of document.querySelectorAll("table")) {
    if (table.tBodies[0].rows.length < 2) continue;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const sorter = document.createElement("button");
      sorter.type = "button"; sorter.title = "sort by this column";
      sorter.append(...head.childNodes);
      head.append(sorter);
      sorter.onclick = () => { // numbers: the largest first, names: A first
        const first = column > 0 ? "descending" : "ascending", was = head.getAttribute("aria-sort");
        const now = was === first ? (first === "descending" ? "ascending" : "descending") : first;
        heads.forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", now);
        sort(table, column, now === "ascending");
      };
    });
  }

  const folds = [...document.querySelectorAll("details.fold")], all = document.getElementById("folds");
  const unfold = (open) => {
    folds.forEach((fold) => { fold.open = open; });
    if (all) all.textContent = (open ? "close" : "open") + " all tables";
  };
  if (all && folds.length > 1) {
    all.hidden = false;
    all.onclick = () => unfold(all.textContent.startsWith("open"));
  }

  const filter = document.getElementById("filter");
  if (filter) {
    filter.hidden = false;
    filter.oninput = () => {
      const wanted = filter.value.trim().toLowerCase().split(/\s+/);
      if (filter.value) unfold(true);
      for (const row of document.querySelectorAll("table.policies tbody tr")) {
        const name = row.cells[0].textContent.toLowerCase();
        row.hidden = !wanted.every((part) => name.includes(part));
      }
    };
  }

  const boxes = [...document.querySelectorAll(".box")];
  const hint = (box) => {
    const wide = box.scrollWidth > box.clientWidth + 2;
    box.parentElement.classList.toggle("more", wide && box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
    const after = box.parentElement.nextElementSibling;
    if (after?.matches(".hint")) after.hidden = !wide;
  };
  for (const box of boxes) box.addEventListener("scroll", () => hint(box), { passive: true });
  const hints = () => boxes.forEach(hint);
  addEventListener("resize", hints);
  // On a desk the tables that say most are open, on a phone none; in print all.
  folds.forEach((fold) => { fold.open = innerWidth >= 700 && "opened" in fold.dataset; fold.addEventListener("toggle", hints); });
  addEventListener("beforeprint", () => unfold(true));
  hints();
})();
