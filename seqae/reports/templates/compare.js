// Runs picked in the table, side by side: the error by frame step, then the same sequences as each reproduces them.
{
  const picks = Array.from(table.querySelectorAll(".pick"));
  const bar = document.querySelector("#picked");
  const section = document.querySelector("#compare");
  const colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f"];
  const dashes = ["", "6 3", "2 3"];
  const wanted = new Set((state.get("compare") ?? "").split(","));
  let moving = false;

  const link = (pick) => pick.closest("th").querySelector("a");
  const name = (pick) => link(pick).textContent;
  const run = (pick) => ({
    name: name(pick), folder: link(pick).getAttribute("href").replace(/[^/]*$/, ""), href: link(pick).getAttribute("href"),
    verdict: pick.closest("tr").cells[2].textContent, ...JSON.parse(pick.dataset.beside),
  });

  function element(tag, attributes = {}, ...children) {
    const made = ["svg", "path", "line", "text", "title"].includes(tag)
      ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function named(of) {
    const n = new Set(of.map((one) => one.seed)).size;
    const lost = of.filter((one) => !Object.keys(one.steps).length).length;
    const told = lost ? `, ${of.length > 1 ? `${lost} ` : ""}diverged` : "";
    return of[0].name + (n > 1 ? `: mean and range, n = ${n} seeds` : "") + told;
  }

  // Runs that differ only by seed are drawn as one line, their mean, with a band from the least to the largest value.
  function groups(runs) {
    const found = new Map();
    for (const one of runs) found.set(one.recipe, [...(found.get(one.recipe) ?? []), one]);
    return Array.from(found.values(), (of, i) => ({
      of, colour: colours[i % colours.length], dash: dashes[Math.floor(i / colours.length) % dashes.length],
      name: named(of),
    }));
  }

  function chart(branch, lines) {
    const [width, height, left, bottom] = [520, 270, 62, 40];
    const all = lines.flatMap(({ of }) => of.map((one) => one.steps[branch])).filter(Boolean);
    const levels = [...new Set(lines.flatMap(({ of }) => of.map((one) => one.mean_frame[branch])))].filter(Number.isFinite);
    const steps = Math.max(...all.map((values) => values.length));
    let [least, most] = [Math.min(...levels, ...all.flat()), Math.max(...levels, ...all.flat())];
    [least, most] = [least - (most - least) / 20, most + (most - least) / 20 || 1];
    const x = (step) => left + (step - 0.5) / steps * (width - left - 8);
    const y = (value) => 8 + (most - value) / (most - least) * (height - bottom - 8);
    const path = (values) => values.map((value, i) => `${i ? "L" : "M"}${x(i + 1).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `${branch}: mean squared error by frame step of ${lines.map((line) => line.name).join(", ")}` });
    for (let i = 0; i < 5; i++) {
      const value = least + (most - least) * (i + 0.5) / 5;
      svg.append(element("line", { x1: left, x2: width, y1: y(value), y2: y(value), stroke: "currentColor", "stroke-opacity": 0.15 }),
        element("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toPrecision(3)));
    }
    for (let step = 1; step <= steps; step += Math.ceil(steps / 10))
      svg.append(element("text", { x: x(step), y: height - bottom + 16, "text-anchor": "middle" }, step));
    svg.append(element("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" },
      `${branch}: MSE per pixel, on [0, 1], by frame step of the decoder`));
    for (const level of levels)
      svg.append(element("path", { d: `M${left} ${y(level)}H${width}`, stroke: "currentColor", "stroke-dasharray": "8 4" }, element("title", {}, "mean frame")));
    for (const { of, colour, dash, name } of lines) {
      const at = (pick, of) => of[0].map((_, i) => pick(of.map((values) => values[i])));
      const mean = (v) => v.reduce((a, b) => a + b) / v.length;
      const known = of.filter((one) => one.steps[branch]);
      const seeds = [...new Set(known.map((one) => one.seed))].map((seed) => // a seed counts once, however often it was run
        at(mean, known.filter((one) => one.seed === seed).map((one) => one.steps[branch])));
      if (!seeds.length) continue;
      if (seeds.length > 1) {
        const [low, high] = [at((v) => Math.min(...v), seeds), at((v) => Math.max(...v), seeds)];
        svg.append(element("path", { class: "band", style: `fill: ${colour}`, "fill-opacity": 0.25,
          d: `${path(low)}${high.map((value, i) => `L${x(i + 1)} ${y(value)}`).reverse().join("")}Z` }));
      }
      svg.append(element("path", { class: "mean", d: path(at(mean, seeds)), stroke: colour,
        "stroke-width": 2, "stroke-dasharray": dash }, element("title", {}, name)));
    }
    return svg;
  }

  function pictures(runs) {
    const file = moving ? "frames.gif" : "frames.png";
    return runs.map((one) => {
      const rows = [...("recon" in one.mean_frame ? ["seen", "reconstruction"] : []), ...("pred" in one.mean_frame ? ["future", "prediction"] : [])];
      return element("figure", {}, element("figcaption", {}, element("a", { href: one.href }, one.name), ` ${one.verdict}`),
        element("img", { src: one.folder + file, alt: `Frames of ${one.name}: ${rows.join(", ")}` }));
    });
  }

  function render() {
    const runs = picks.filter((pick) => pick.checked).map(run);
    const lines = groups(runs);
    const branches = ["recon", "pred"].filter((branch) => runs.some((one) => one.steps[branch]));
    const shown = new Set(runs.map((one) => one.sequences));
    const still = element("button", { type: "button", "aria-pressed": String(moving) }, "Moving");
    still.addEventListener("click", () => { moving = !moving; render(); });
    section.replaceChildren(
      element("h2", {}, "Error by frame step, on test"),
      element("div", { class: "charts" }, ...branches.map((branch) => chart(branch, lines))),
      element("ul", { class: "key" }, ...lines.map(({ colour, dash, name }) => element("li", {}, element("svg", { viewBox: "0 0 32 12" },
        element("path", { d: "M0 6H32", stroke: colour, "stroke-width": 3, "stroke-dasharray": dash })), name)),
        element("li", {}, element("svg", { viewBox: "0 0 32 12" }, element("path", { d: "M0 6H32", stroke: "currentColor", "stroke-dasharray": "8 4" })), "mean frame")),
      element("h2", {}, "The same two sequences"),
      element("p", shown.size > 1 ? { class: "notice" } : {}, shown.size > 1
        ? `Not the same data and budget: ${[...shown].join("; ")}.`
        : `Truth and output, row by row, of sequences that none trained on: ${[...shown]}. `, " ", still),
      element("div", { class: "side" }, ...pictures(runs)),
    );
    section.hidden = runs.length === 0;
  }

  function count() {
    const chosen = picks.filter((pick) => pick.checked);
    bar.hidden = chosen.length === 0;
    bar.querySelector("output").textContent = `${chosen.length} picked`;
    remember({ compare: chosen.map(name).join(",") });
    if (!section.hidden || chosen.length === 0) render();
  }

  for (const pick of picks) {
    pick.checked = wanted.has(name(pick));
    pick.addEventListener("change", count);
  }
  document.querySelector("#show-compare").addEventListener("click", () => { render(); section.scrollIntoView(); });
  document.querySelector("#unpick").addEventListener("click", () => {
    for (const pick of picks) pick.checked = false;
    count();
  });
  if (picks.some((pick) => pick.checked)) { render(); count(); }
}
