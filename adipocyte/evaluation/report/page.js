"use strict";

// Truth and painting lie on each other; the slider says how much of the truth is seen, and the error is computed from both.
for (const viewer of document.querySelectorAll(".viewer")) start(viewer);
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const image of document.images) image.loading = "eager";
});

// In MLflow's sandbox a link within the page counts as another document and is refused, so we go there ourselves.
for (const link of document.querySelectorAll('a[href^="#"]')) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    document.querySelector(link.getAttribute("href")).scrollIntoView();
  });
}

function start(viewer) {
  const part = (name) => viewer.querySelector(name);
  const [frame, stack, slider, error, zoom] = [".frame", ".stack", "input", ".show-error", ".zoom"].map(part);

  // The line stays in sight: it is placed in the frame, wherever that is scrolled to.
  function place() {
    const x = frame.scrollLeft + (frame.clientWidth * slider.value) / 100;
    stack.style.setProperty("--at", `${Math.min(100, (100 * x) / stack.clientWidth)}%`);
  }
  slider.addEventListener("input", place);
  frame.addEventListener("scroll", place);
  new ResizeObserver(place).observe(frame);

  function drag(event) {
    const scrolls = event.pointerType === "touch" && viewer.classList.contains("full");
    if (event.buttons !== 1 || scrolls) return;
    slider.value = (100 * (event.clientX - frame.getBoundingClientRect().left)) / frame.clientWidth;
    place();
  }
  stack.addEventListener("pointerdown", drag);
  stack.addEventListener("pointermove", drag);

  error.addEventListener("click", () => {
    const shown = toggle(error, viewer, "error");
    slider.disabled = shown;
    if (shown) paintError(part("canvas"), part(".truth"), part(".painted"));
    else part("canvas").width = 0; // gives its memory back
  });
  zoom.addEventListener("click", () => {
    toggle(zoom, viewer, "full");
    place();
  });
}

function toggle(button, viewer, name) {
  const on = viewer.classList.toggle(name);
  button.setAttribute("aria-pressed", on);
  return on;
}

// |truth - painting| through magma: full colour at half of the displayed range.
async function paintError(canvas, truth, painted) {
  truth.loading = painted.loading = "eager"; // a picture that waits for its turn would never be decoded
  await Promise.all([truth.decode(), painted.decode()]);
  const [width, height] = [truth.naturalWidth, truth.naturalHeight];
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const read = (image) => {
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, width, height);
  };
  const [first, second] = [read(truth), read(painted)];
  const colours = document.body.dataset.magma.match(/../g).map((digits) => parseInt(digits, 16));
  for (let at = 0; at < first.data.length; at += 4) {
    const level = Math.min(255, 2 * Math.abs(first.data[at] - second.data[at]));
    for (let channel = 0; channel < 3; channel++) second.data[at + channel] = colours[3 * level + channel];
  }
  context.putImageData(second, 0, 0);
  canvas.dataset.ready = "yes";
}
