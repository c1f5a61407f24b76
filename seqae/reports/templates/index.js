"use strict";
const table = document.querySelector("table.runs");
if (table) {
  const body = table.tBodies[0];
  const pairs = (text) => new Set(text.toLowerCase().split("\n").filter(Boolean));
  const rows = Array.from(body.rows, (row) => ({
    row, family: row.dataset.family, text: row.textContent.toLowerCase(),
    defined: pairs(row.dataset.defined),
  }));
  const shared = pairs(table.dataset.shared);
  const known = new Set([shared, ...rows.map((entry) => entry.defined)].flatMap((some) => [...some].map((pair) => pair.split("=")[0])));
  // parameter=value matches the whole value, gain=1 but not gain=10; any other word matches anywhere.
  const holds = (entry, word) => word.includes("=") && known.has(word.split("=")[0])
    ? entry.defined.has(word) || shared.has(word) : entry.text.includes(word);
  const filter = document.querySelector("#filter");
  const families = Array.from(document.querySelectorAll(".families button"));
  const headings = Array.from(table.querySelectorAll("thead th"));
  const names = headings.map((heading) => heading.querySelector("button")?.textContent);
  const state = new URLSearchParams(location.hash.slice(1)); // the view is kept in the address, so that a reload keeps it

  const value = (row, column, type) => {
    const cell = row.cells[column];
    const text = (cell.dataset.value ?? cell.textContent).trim();
    return type === "number" && text !== "" ? Number(text) : text;
  };

  function sort(column, direction) {
    const type = headings[column].dataset.type;
    const keyed = rows.map((entry) => ({ entry, key: value(entry.row, column, type) }));
    keyed.sort(({ key: a }, { key: b }) => {
      if (a === "" || b === "") return (a === "") - (b === ""); // empty cells are last in both orders
      return direction * (type === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
    });
    body.append(...keyed.map(({ entry }) => entry.row));
    headings.forEach((heading) => heading.removeAttribute("aria-sort"));
    headings[column].setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  }

  function show() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const family = state.get("family") ?? "";
    let count = 0;
    for (const entry of rows) {
      const match = (!family || entry.family === family) && words.every((word) => holds(entry, word));
      entry.row.hidden = !match;
      count += match;
    }
    for (const button of families) button.setAttribute("aria-pressed", button.dataset.family === family);
    document.querySelector("#shown").textContent = count < rows.length ? `${count} of ${rows.length}` : "";
    document.querySelector("#none").hidden = count > 0;
    fit();
  }

  // Columns of metrics that are empty in all rows shown are hidden, and those that do not fit, the last ones first.
  const widths = table.dataset.widths.split(" ").map(Number); // rem
  const hiding = document.head.appendChild(document.createElement("style"));
  const every = document.querySelector("#all-columns");
  const metrics = headings.flatMap((heading, column) => "metric" in heading.dataset ? [column] : []);
  for (const entry of rows) entry.filled = metrics.filter((column) => entry.row.cells[column].textContent.trim());

  function fit() {
    const filled = new Set(rows.flatMap((entry) => entry.row.hidden ? [] : entry.filled));
    const hidden = new Set(filled.size ? metrics.filter((column) => !filled.has(column)) : []);
    const room = table.parentElement.clientWidth / parseFloat(getComputedStyle(document.documentElement).fontSize);
    const needed = () => widths.reduce((sum, width, column) => hidden.has(column) ? sum : sum + width, 0);
    const cut = [];
    for (const column of matchMedia("(max-width: 48rem)").matches ? [] : metrics.toReversed()) {
      if (needed() <= room) break;
      if (!hidden.has(column) && !headings[column].hasAttribute("aria-sort")) cut.push(column), hidden.add(column);
    }
    const all = state.get("columns") === "all";
    if (all) cut.forEach((column) => hidden.delete(column));
    every.hidden = cut.length === 0;
    every.setAttribute("aria-pressed", all);
    every.textContent = all ? "Columns that fit" : `All columns (${cut.length} more)`;
    hiding.textContent = [...hidden].map((column) => `.runs tr > :nth-child(${column + 1}) { display: none !important; }`).join("");
    const flexible = { 0: "minmax(15rem, 1fr)", 2: "minmax(11rem, 18rem)" };
    table.style.setProperty("--columns", widths.flatMap((width, column) => hidden.has(column) ? [] : [flexible[column] ?? `${width}rem`]).join(" "));
    table.style.setProperty("--least", `${needed()}rem`);
  }
  every.addEventListener("click", () => remember({ columns: state.get("columns") === "all" ? "" : "all" }));
  addEventListener("resize", fit);

  function remember(changes) {
    for (const [key, text] of Object.entries(changes)) text ? state.set(key, text) : state.delete(key);
    history.replaceState(null, "", `#${state}`);
    show();
  }

  headings.forEach((heading, column) => heading.querySelector("button")?.addEventListener("click", () => {
    const now = heading.getAttribute("aria-sort");
    const direction = now ? (now === "ascending" ? -1 : 1) : heading.dataset.best === "most" ? -1 : 1;
    sort(column, direction);
    remember({ sort: (direction < 0 ? "-" : "") + names[column] });
  }));
  families.forEach((button) => button.addEventListener("click", () => remember({ family: button.dataset.family })));
  filter.addEventListener("input", () => remember({ filter: filter.value }));
  document.querySelector("#clear").addEventListener("click", () => {
    filter.value = "";
    remember({ filter: "", family: "" });
    filter.focus();
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target === filter || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    filter.focus();
  });

  filter.value = state.get("filter") ?? "";
  if (!families.some((button) => button.dataset.family === state.get("family"))) state.delete("family");
  const [, minus, name] = (state.get("sort") ?? "").match(/^(-?)(.*)$/);
  if (names.includes(name)) sort(names.indexOf(name), minus ? -1 : 1);
  show();

{% include "compare.js" %}
}
