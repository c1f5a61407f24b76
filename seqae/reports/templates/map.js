
for (const map of document.querySelectorAll(".seqae-map:not([data-ready])")) {
  map.dataset.ready = "";
  const points = [...map.querySelectorAll("circle")];
  const [svg, told, picture, colour] = ["svg", "output", ".strip img", "select"].map((name) => map.querySelector(name));
  let at = 0;

  const show = (next) => {
    delete points[at].dataset.here;
    at = (next + points.length) % points.length;
    points[at].dataset.here = "";
    told.textContent = points[at].dataset.told;
    picture.style.transform = `translateY(${(-100 * at) / points.length}%)`;
  };

  map.querySelector(".controls").hidden = false;
  colour.addEventListener("change", () => points.forEach((p) => p.setAttribute("fill", p.dataset[colour.value])));
  for (const name of ["pointerover", "click"])
    svg.addEventListener(name, (event) => { if (points.includes(event.target)) show(points.indexOf(event.target)); });
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) { event.preventDefault(); show(at + step); }
  });
  show(0);
}
