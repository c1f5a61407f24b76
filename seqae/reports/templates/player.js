
for (const player of document.querySelectorAll(".seqae-player:not([data-ready])")) {
  player.dataset.ready = "";
  const frames = player.querySelectorAll(".frame");
  const [play, slider, told] = ["button.play", "input", "output"].map((name) => player.querySelector(name));
  let at = 0, timer = null;

  const show = (next) => {
    frames[at].hidden = true;
    at = (next + frames.length) % frames.length;
    frames[at].hidden = false;
    slider.value = at;
    told.textContent = `frame ${frames[at].dataset.number} of ${frames[frames.length - 1].dataset.number}`;
  };
  const pause = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };

  player.querySelector(".controls").hidden = false;
  slider.addEventListener("input", () => { pause(); show(Number(slider.value)); });
  for (const step of player.querySelectorAll("[data-step]"))
    step.addEventListener("click", () => { pause(); show(at + Number(step.dataset.step)); });
  play.addEventListener("click", () => {
    if (timer !== null) return pause();
    timer = setInterval(() => show(at + 1), Number(player.dataset.milliseconds));
    play.textContent = "Pause";
  });
}
