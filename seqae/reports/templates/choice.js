// What the reader chose: the runs picked, the baseline, and what is saved of them.
  for (const line of lines) line.pick = line.row.querySelector(".pick, .pick-seeds");
  const pickable = runs.filter((line) => line.pick);
  const picked = () => pickable.filter((line) => line.pick.checked);
  const bar = find("#picked"), asBaseline = find("#as-baseline");
  let baseline = null;

  function element(tag, attributes = {}, ...children) {
    const made = ["svg", "path", "line", "rect", "text", "title"].includes(tag)
      ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // The run picked, or the setting of which all seeds are picked; null where several are.
  function one(some) {
    const setting = some[0]?.setting;
    const whole = setting && some.length === setting.seeds.filter((line) => line.pick).length && some.every((line) => line.setting === setting);
    return whole && !apart() ? setting : some.length === 1 ? some[0] : null;
  }

  function chosen() {
    const some = picked(), shown = runs.filter((line) => line.matches).length;
    for (const { pick, seeds } of lines.filter((line) => line.pick && line.seeds.length)) {
      const of = seeds.filter((line) => line.pick), count = of.filter((line) => line.pick.checked).length;
      [pick.checked, pick.indeterminate] = [count === of.length, count > 0 && count < of.length];
    }
    bar.hidden = some.length === 0;
    bar.querySelector("output").textContent = `${some.length} picked`;
    asBaseline.disabled = !one(some);
    asBaseline.title = one(some) ? "" : "Pick one run, or all seeds of one setting";
    find("#csv").textContent = `CSV of ${some.length || shown} ${some.length ? "picked" : shown < runs.length ? "shown" : "runs"}`;
    differences();
    find("#baseline").hidden = !baseline;
  }

  // Below each figure of a line its difference to that of the baseline, where both had the same data and budget.
  function differences() {
    const before = baseline;
    baseline = state.has("baseline") ? lines.find((line) => line.pick && name(line) === state.get("baseline")) ?? null : null;
    if (baseline === before) return;
    if (baseline) find("#baseline strong").textContent = baseline.row.cells[0].dataset.value
      ? `${baseline.row.cells[0].dataset.value} (mean of ${baseline.seeds.length} seeds)` : name(baseline);
    for (const { row, figures } of lines) {
      row.toggleAttribute("aria-current", row === baseline?.row);
      const fair = baseline && row !== baseline.row && row.dataset.budget === baseline.row.dataset.budget;
      metrics.forEach((column, i) => {
        row.cells[column].querySelector(".difference")?.remove();
        if (!fair || figures[i] === null || baseline.figures[i] === null) return;
        const [[ours, low = ours, high = ours], [theirs, least = theirs, most = theirs]] = [figures, baseline.figures].map((of) => [of[i]].flat());
        const better = (ours - theirs) * (headings[column].dataset.best === "most" ? 1 : -1);
        const overlap = (low < high || least < most) && low <= most && least <= high;
        const decimals = (baseline.row.cells[column].firstChild.textContent.split(".")[1] ?? "").length; // as many as are shown
        const told = (better ? ours < theirs ? "−" : "+" : "±") + Math.abs(ours - theirs).toFixed(decimals);
        row.cells[column].append(element("small", { class: `difference ${better > 0 ? "better" : better < 0 ? "worse" : ""}` }, overlap ? `(${told})` : told));
      });
    }
  }

  // One line for each run, with all its parameters and all digits that the index has.
  function csv(some) {
    const pairs = (text) => text.split("\n").filter(Boolean).map((pair) => [pair.split("=", 1)[0], pair.slice(pair.indexOf("=") + 1)]);
    const table_of = some.map((line) => ({ run: name(line), setting: `${line.row.dataset.family}/${line.row.dataset.setting}`,
      status: line.row.cells[1].textContent, verdict: line.row.cells[2].textContent,
      ...Object.fromEntries([...pairs(table.dataset.shared), ...pairs(line.row.dataset.defined)]),
      ...Object.fromEntries(metrics.map((column, i) => [titles[column].replace(/^(?!.* val )(\S+) /, "$1 test "), line.figures[i]])),
      seconds: line.row.cells[line.row.cells.length - 2].dataset.value, started: line.row.cells[line.row.cells.length - 1].textContent }));
    const columns = [...new Set(table_of.flatMap(Object.keys))];
    const quoted = (value) => /[",\r\n]/.test(value ?? "") ? `"${value.replaceAll('"', '""')}"` : value ?? "";
    return [columns, ...table_of.map((row) => columns.map((column) => row[column]))].map((row) => row.map(quoted).join(",") + "\n").join("");
  }

  function save(file, content) {
    const link = element("a", { href: URL.createObjectURL(content), download: file });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href));
  }

  body.addEventListener("change", ({ target }) => {
    const line = lines.find((line) => line.pick === target);
    for (const seed of line.seeds) if (seed.pick) seed.pick.checked = target.checked;
    rechosen();
  });

  function rechosen() {
    const some = picked();
    remember({ compare: some.map(name).join(",") });
    if (!section.hidden || !some.length) compare();
  }

  find("#show-compare").addEventListener("click", () => { compare(); section.scrollIntoView(); });
  find("#unpick").addEventListener("click", () => {
    for (const line of picked()) line.pick.checked = false;
    rechosen();
  });
  asBaseline.addEventListener("click", () => remember({ baseline: name(one(picked())) }));
  find("#no-baseline").addEventListener("click", () => remember({ baseline: "" }));
  find("#csv").addEventListener("click", () => {
    const some = picked();
    save("seqae-runs.csv", new Blob([csv(some.length ? some : runs.filter((line) => line.matches))], { type: "text/csv" }));
  });

  function restoreChoice() {
    const named = ["compare", "baseline"].flatMap((key) => (state.get(key) ?? "").split(",")).filter(Boolean);
    const there = new Map(named.length ? lines.filter((line) => line.pick).map((line) => [name(line), line]) : []);
    const wanted = new Set((state.get("compare") ?? "").split(","));
    for (const line of pickable) line.pick.checked = named.length > 0 && wanted.has(name(line));
    const lost = [...new Set(named)].filter((one) => !there.has(one));
    find("#lost").textContent = `In this link, but not among the finished runs here: ${lost.join(", ")}.`;
    find("#lost").hidden = lost.length === 0;
    compare();
  }
