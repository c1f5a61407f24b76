"use strict";
const contents = document.querySelector(".contents");
if (contents) {
  const wide = matchMedia("(min-width: 75rem)");
  const fit = () => { contents.open = wide.matches; };
  wide.addEventListener("change", fit);
  fit();
}
// What scrolls sideways fades at the side where more of it lies, and the keyboard scrolls it.
for (const box of document.querySelectorAll(".figure, .html, .scroll")) {
  const mark = () => {
    const left = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.classList.toggle("more", left > 1);
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };
  box.addEventListener("scroll", mark, { passive: true });
  new ResizeObserver(mark).observe(box);
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
