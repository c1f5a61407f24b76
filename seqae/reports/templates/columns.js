// Columns of metrics that are empty in all lines shown are hidden, and those that do not fit, the last ones first.
  const widths = table.dataset.widths.split(" ").map(Number); // rem
  const hiding = document.head.appendChild(document.createElement("style"));
  const every = find("#all-columns");

  function fit() {
    const seen = lines.filter((line) => !line.row.hidden);
    const filled = new Set(metrics.filter((_, i) => seen.some((line) => line.figures[i] !== null)));
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
