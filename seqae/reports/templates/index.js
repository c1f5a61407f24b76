"use strict";
const table = document.querySelector("table.runs");
if (table) {
  const find = (selector) => document.querySelector(selector);
  const body = table.tBodies[0];
  const headings = Array.from(table.querySelectorAll("thead th"));
  const titles = headings.map((heading) => heading.querySelector("button")?.textContent);
  const metrics = headings.flatMap((heading, column) => "metric" in heading.dataset ? [column] : []);
  // A line is a run or a setting; the seeds of a setting stand below it. figures: by metric, see figures() in Python.
  const lines = Array.from(body.rows, (row) => ({ row, seeds: [], figures: JSON.parse(row.dataset.figures) }));
  lines.reduce((setting, line) => {
    if (!line.row.matches(".seed")) return line;
    line.setting = setting;
    setting.seeds.push(line);
    return setting;
  }, null);
  const runs = lines.filter((line) => !line.seeds.length);
  const name = (line) => line.row.dataset.key ?? line.row.querySelector("th a").textContent;
  const mean = (figure) => Array.isArray(figure) ? figure[0] : figure;
  // The view is kept in the address: whoever opens that, or reloads the page, sees the same runs, order and choice.
  let state = new URLSearchParams(), arranged = false;

  {% include "filter.js" %}

  // A setting stands where its mean does, by whatever column: nowhere does the best of its seeds stand for it.
  function arrange() {
    const [, minus, title] = (state.get("sort") ?? "").match(/^(-?)(.*)$/);
    const column = titles.indexOf(title), direction = minus ? -1 : 1;
    const number = headings[column]?.dataset.type === "number", metric = metrics.indexOf(column);
    const key = ({ row, figures }) => {
      if (metric >= 0) return mean(figures[metric]) ?? "";
      const text = (row.cells[column].dataset.value ?? row.cells[column].textContent).trim();
      return number && text ? Number(text) : text;
    };
    const words = new Intl.Collator(undefined, { numeric: true });
    const ordered = (some) => column < 0 ? some : some.map((line) => ({ line, key: key(line) })).sort(({ key: a }, { key: b }) =>
      a === "" || b === "" ? (a === "") - (b === "") // empty cells are last in both orders
        : direction * (number ? a - b : words.compare(a, b))).map(({ line }) => line);
    const folded = ordered(lines.filter((line) => !line.setting)).flatMap((line) => [line, ...ordered(line.seeds)]);
    const all = apart() ? [...ordered(runs), ...lines.filter((line) => line.seeds.length)] : folded;
    body.append(...all.map(({ row }) => row));
    arranged = true;
    headings.forEach((heading) => heading.removeAttribute("aria-sort"));
    headings[column]?.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  }

  const apart = () => state.get("seeds") === "apart";

  function show() {
    const matches = matching();
    for (const line of runs) line.matches = matches(line);
    for (const line of lines)
      line.row.hidden = line.seeds.length ? apart() || !line.seeds.some((seed) => seed.matches)
        : !line.matches || !apart() && line.setting && !line.setting.open;
    const count = runs.filter((line) => line.matches).length;
    find("#shown").textContent = count < runs.length ? `${count} of ${runs.length}` : "";
    find("#none").hidden = count > 0;
    find("#apart")?.setAttribute("aria-pressed", apart());
    fit();
    chosen();
    find("#view").href = `#${state}`;
  }

  {% include "columns.js" %}

  function remember(changes) {
    for (const [key, text] of Object.entries(changes)) text ? state.set(key, text) : state.delete(key);
    history.replaceState(null, "", `#${state}`);
    if ("sort" in changes || "seeds" in changes) arrange();
    show();
  }

  headings.forEach((heading, column) => heading.querySelector("button")?.addEventListener("click", () => {
    const now = heading.getAttribute("aria-sort");
    const down = now ? now === "ascending" : heading.dataset.best === "most";
    remember({ sort: (down ? "-" : "") + titles[column] });
  }));
  find("#apart")?.addEventListener("click", () => remember({ seeds: apart() ? "" : "apart" }));
  for (const line of lines.filter((line) => line.seeds.length)) {
    // Its picture is that of its first seed.
    if (line.seeds[0].row.querySelector("img")) line.row.cells[3].append(line.seeds[0].row.querySelector("img").cloneNode());
    line.row.querySelector(".open").addEventListener("click", ({ target }) => {
      line.open = !line.open;
      target.setAttribute("aria-expanded", line.open);
      show();
    });
  }

  {% include "choice.js" %}
  {% include "compare.js" %}

  function restore() {
    state = new URLSearchParams(location.hash.slice(1));
    restoreFilter();
    restoreChoice();
    if (arranged || state.has("sort") || apart()) arrange();
    show();
  }
  addEventListener("hashchange", restore);
  restore();
  body.hidden = false;
}
