// Runs picked in the table, side by side: the error by frame step, then the same sequences as each reproduces them.
  const section = find("#compare");
  const colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f"];
  const dashes = ["", "6 3", "2 3"];
  const [width, height] = [520, 270]; // of a chart
  let moving = false;

  const run = (line) => {
    const href = line.row.querySelector("th a").getAttribute("href");
    return { name: name(line), together: line.setting?.row.cells[0].dataset.value, href, folder: href.replace(/[^/]*$/, ""), verdict: line.row.cells[2].textContent,
      setting: `${line.row.dataset.family}/${line.row.dataset.setting}`, seed: line.row.dataset.seed, budget: line.row.dataset.budget,
      ...JSON.parse(line.pick.dataset.beside) };
  };

  function named(of) {
    const n = new Set(of.map((one) => one.seed)).size;
    const lost = of.filter((one) => !Object.keys(one.steps).length).length;
    const told = lost ? `, ${of.length > 1 ? `${lost} ` : ""}diverged` : "";
    return (n > 1 && of[0].together || of[0].name) + (n > 1 ? `: mean and range, n = ${n} seeds` : "") + told;
  }

  // Runs that differ only by seed are drawn as one line, their mean, with a band from the least to the largest value.
  function curves(some) {
    const found = new Map();
    for (const one of some) found.set(one.setting, [...(found.get(one.setting) ?? []), one]);
    return Array.from(found.values(), (of, i) => ({
      of, colour: colours[i % colours.length], dash: dashes[Math.floor(i / colours.length) % dashes.length],
      name: named(of),
    }));
  }

  // Three to seven round numbers between two.
  function ticks(least, most) {
    const power = Math.floor(Math.log10((most - least) / 3));
    const unit = [5, 2, 1].find((unit) => unit * 10 ** power <= (most - least) / 3) * 10 ** power;
    const first = Math.ceil(least / unit);
    return Array.from({ length: Math.floor(most / unit) - first + 1 }, (_, i) => ((first + i) * unit).toFixed(Math.max(0, -power)));
  }

  // A text in lines of at most so many characters.
  const wrapped = (text, most) => text.split(" ").reduce((made, word) => {
    const longer = `${made[0]} ${word}`;
    return longer.length > most ? [word, ...made] : [longer.trim(), ...made.slice(1)];
  }, [""]).reverse();

  // budget: the title, where there are charts of several: errors on other data, or at another budget, are in another.
  function chart(branch, drawn, budget) {
    const [left, bottom] = [62, 40];
    const title = budget ? wrapped(budget, 80) : [], top = 18 * title.length;
    const all = drawn.flatMap(({ of }) => of.map((one) => one.steps[branch])).filter(Boolean);
    const levels = [...new Set(drawn.flatMap(({ of }) => of.map((one) => one.mean_frame[branch])))].filter(Number.isFinite);
    const steps = Math.max(...all.map((values) => values.length));
    let [least, most] = [Math.min(...levels, ...all.flat()), Math.max(...levels, ...all.flat())];
    [least, most] = [least - (most - least) / 20, most + (most - least) / 20 || 1];
    const x = (step) => left + (step - 0.5) / steps * (width - left - 8);
    const y = (value) => 8 + (most - value) / (most - least) * (height - bottom - 8);
    const path = (values) => values.map((value, i) => `${i ? "L" : "M"}${x(i + 1).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    const svg = element("svg", { viewBox: `0 ${-top} ${width} ${height + top}`, role: "img",
      "aria-label": `${branch}: mean squared error by frame step of ${drawn.map((curve) => curve.name).join(", ")}${budget ? `; ${budget}` : ""}` });
    title.forEach((line, i) => svg.append(element("text", { class: "budget", x: left, y: 18 * i + 12 - top }, line)));
    for (const value of ticks(least, most)) {
      svg.append(element("line", { x1: left, x2: width, y1: y(value), y2: y(value), stroke: "currentColor", "stroke-opacity": 0.15 }),
        element("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value));
    }
    for (let step = 1; step <= steps; step += Math.ceil(steps / 10))
      svg.append(element("text", { x: x(step), y: height - bottom + 16, "text-anchor": "middle" }, step));
    svg.append(element("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" },
      `${branch}: MSE per pixel on [0, 1], by frame step, on test`));
    for (const level of levels)
      svg.append(element("path", { d: `M${left} ${y(level)}H${width}`, stroke: "currentColor", "stroke-dasharray": "8 4" }, element("title", {}, "mean frame")));
    for (const { of, colour, dash, name } of drawn) {
      const at = (pick, of) => of[0].map((_, i) => pick(of.map((values) => values[i])));
      const mean = (v) => v.reduce((a, b) => a + b) / v.length;
      const known = of.filter((one) => one.steps[branch]);
      const seeds = [...new Set(known.map((one) => one.seed))].map((seed) => // a seed counts once, however often it was run
        at(mean, known.filter((one) => one.seed === seed).map((one) => one.steps[branch])));
      if (!seeds.length) continue;
      if (seeds.length > 1) {
        const [low, high] = [at((v) => Math.min(...v), seeds), at((v) => Math.max(...v), seeds)];
        svg.append(element("path", { class: "band", fill: colour, "fill-opacity": 0.25,
          d: `${path(low)}${high.map((value, i) => `L${x(i + 1)} ${y(value)}`).reverse().join("")}Z` }));
      }
      svg.append(element("path", { class: "mean", d: path(at(mean, seeds)), fill: "none", stroke: colour,
        "stroke-width": 2, "stroke-dasharray": dash }, element("title", {}, name)));
    }
    return svg;
  }

  function key(name, stroke) {
    const sample = element("svg", { viewBox: "0 0 32 12", width: 32, height: 12 }, element("path", { d: "M0 6H32", ...stroke }));
    return element("li", {}, sample, name);
  }

  // The charts and their key as one picture, black on white: for a paper or a slide.
  function figure() {
    const charts = [...section.querySelectorAll(".charts svg")], keys = [...section.querySelectorAll(".key li")];
    const high = (svg) => svg.viewBox.baseVal.height, tall = Math.max(...charts.map(high));
    const size = { width: Math.max(width * charts.length, ...keys.map((li) => 110 + 6.5 * li.textContent.length)), height: tall + 20 * keys.length + 15 };
    const whole = element("svg", { ...size, viewBox: `0 0 ${size.width} ${size.height}`, color: "#1e2227", fill: "#1e2227", "font-family": "sans-serif", "font-size": 12 },
      element("rect", { ...size, fill: "#fff" }));
    const put = (svg, place) => Object.entries(place).reduce((copy, [of, value]) => (copy.setAttribute(of, value), copy), svg.cloneNode(true));
    charts.forEach((svg, i) => whole.append(put(svg, { x: width * i, y: tall - high(svg), width, height: high(svg) })));
    keys.forEach((li, i) => whole.append(put(li.querySelector("svg"), { x: 62, y: tall + 20 * i + 8 }),
      element("text", { x: 102, y: tall + 20 * i + 18 }, li.textContent)));
    return { ...size, text: new XMLSerializer().serializeToString(whole) };
  }

  async function saveFigure(kind) {
    const { width, height, text } = figure(), file = `seqae-error-by-frame-step.${kind}`;
    if (kind === "svg") return save(file, new Blob([text], { type: "image/svg+xml" }));
    const image = element("img", { src: `data:image/svg+xml,${encodeURIComponent(text)}` });
    const canvas = element("canvas", { width: 2 * width, height: 2 * height });
    await image.decode();
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((content) => save(file, content));
  }

  function pictures(some) {
    const file = moving ? "frames.gif" : "frames.png";
    return some.map((one) => {
      const rows = [...(Object.keys(one.mean_frame).some((branch) => branch.startsWith("recon")) ? ["seen", "reconstruction"] : []), ...("pred" in one.mean_frame ? ["future", "prediction"] : [])];
      return element("figure", {}, element("figcaption", {}, element("a", { href: one.href }, one.name), ` ${one.verdict}`),
        element("img", { src: one.folder + file, alt: `Frames of ${one.name}: ${rows.join(", ")}` }));
    });
  }

  function button(label, act, attributes = {}) {
    const made = element("button", { type: "button", ...attributes }, label);
    made.addEventListener("click", act);
    return made;
  }

  function compare() {
    const some = picked().map(run), drawn = curves(some);
    section.hidden = some.length === 0;
    if (section.hidden) return section.replaceChildren();
    const known = JSON.parse(table.dataset.budgets), keys = [...new Set(some.map((one) => one.budget))];
    const budgets = keys.map((budget) => known[budget]);
    const charts = keys.flatMap((budget) => ["recon", "recon, given truth", "pred"].map((branch) => {
      const of = drawn.filter((curve) => curve.of.some((one) => one.budget === budget && one.steps[branch]));
      return of.length ? [chart(branch, of, keys.length > 1 ? known[budget] : "")] : [];
    })).flat();
    section.replaceChildren(
      element("h2", {}, "Error by frame step, on test"),
      element("div", { class: "charts" }, ...charts),
      element("ul", { class: "key" }, ...drawn.map(({ colour, dash, name }) => key(name, { stroke: colour, "stroke-width": 3, "stroke-dasharray": dash })),
        key("mean frame", { stroke: "currentColor", "stroke-dasharray": "8 4" })),
      element("p", {}, "Save this figure as ", button("SVG", () => saveFigure("svg")), " ", button("PNG", () => saveFigure("png"))),
      element("h2", {}, "The same two sequences"),
      element("p", budgets.length > 1 ? { class: "notice" } : {}, budgets.length > 1
        ? `Not the same data and budget: ${budgets.join("; ")}.`
        : `Truth and output, row by row, of sequences that none trained on: ${budgets}. `, " ",
        button("Moving", () => { moving = !moving; compare(); }, { "aria-pressed": moving })),
      element("div", { class: "side" }, ...pictures(some)),
    );
  }
