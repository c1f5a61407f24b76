"use strict";
const contents = document.querySelector(".contents");
if (contents) {
  const wide = matchMedia("(min-width: 75rem)");
  const fit = () => { contents.open = wide.matches; };
  wide.addEventListener("change", fit);
  fit();
}
const folds = document.querySelectorAll("details.code");
const all = document.querySelector("#all-code");
all.hidden = folds.length === 0;
all.addEventListener("click", () => {
  const open = all.getAttribute("aria-pressed") !== "true";
  for (const fold of folds) fold.open = open;
  all.setAttribute("aria-pressed", open);
  all.textContent = open ? "Hide all code" : "Show all code";
});
