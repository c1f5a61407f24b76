"use strict";
const contents = document.querySelector(".contents");
if (contents) {
  const wide = matchMedia("(min-width: 75rem)");
  const fit = () => { contents.open = wide.matches; };
  wide.addEventListener("change", fit);
  fit();
}
// What scrolls sideways fades at the side where more of it lies, and the keyboard scrolls it.
for (const box of document.querySelectorAll(".figure, .html, .scroll, pre")) {
  const mark = () => {
    const left = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.classList.toggle("more", left > 1);
    if (box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1) box.tabIndex = 0;
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
// A figure is saved under a name that says of what run it is and what it shows.
const slug = (text) => text.replace(/[^\p{L}\p{N}.+-]+/gu, "-").replace(/^-+|-+$/g, "");
const short = (text) => text.length > 60 ? text.slice(0, 60).replace(/-[^-]*$/, "") : text;
for (const image of document.querySelectorAll(".figure img")) {
  const kind = image.src.slice(11).split(/[+;]/)[0]; // data:image/svg+xml;base64,…
  const buttons = document.createElement("p");
  buttons.className = "save";
  const offer = (type, address) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `Save as ${type.toUpperCase()}`;
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.download = `${slug(document.title)}-${short(slug(image.alt)) || "figure"}.${type}`;
      link.href = address();
      link.click();
    });
    buttons.append(button, " ");
  };
  offer(kind, () => image.src);
  if (kind === "svg") offer("png", () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [2 * image.width, 2 * image.height];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/png");
  });
  image.closest(".figure").after(buttons);
}
