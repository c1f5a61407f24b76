// Which runs the filter and the buttons of the families let through.
  const filter = find("#filter");
  const families = Array.from(document.querySelectorAll(".families button"));
  const pairs = (text) => new Set(text.toLowerCase().split("\n").filter(Boolean));
  const shared = pairs(table.dataset.shared);
  let known; // the names of all parameters; made, as what a line holds, when they are first asked for

  // parameter=value matches the whole value, gain=1 but not gain=10; any other word matches anywhere.
  function matching() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const family = state.get("family") ?? "";
    if (words.length) for (const line of runs) {
      line.text ??= line.row.textContent.toLowerCase();
      line.defined ??= pairs(line.row.dataset.defined);
    }
    if (words.length) known ??= new Set([shared, ...runs.map((line) => line.defined)].flatMap((some) => [...some].map((pair) => pair.split("=")[0])));
    const holds = (line, word) => word.includes("=") && known.has(word.split("=")[0])
      ? line.defined.has(word) || shared.has(word) : line.text.includes(word);
    for (const button of families) button.setAttribute("aria-pressed", button.dataset.family === family);
    return (line) => (!family || line.row.dataset.family === family) && words.every((word) => holds(line, word));
  }

  function restoreFilter() {
    filter.value = state.get("filter") ?? "";
    if (!families.some((button) => button.dataset.family === state.get("family"))) state.delete("family");
  }

  families.forEach((button) => button.addEventListener("click", () => remember({ family: button.dataset.family })));
  filter.addEventListener("input", () => remember({ filter: filter.value }));
  find("#clear").addEventListener("click", () => {
    filter.value = "";
    remember({ filter: "", family: "" });
    filter.focus();
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target === filter || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    filter.focus();
  });
