// The truth lies on the painting; the slider says how much of it is seen, and the error is computed
// from both.
for (const viewer of document.querySelectorAll(".viewer")) start(viewer);

function start(viewer) {
  const part = (name) => viewer.querySelector(name);
  const names = [".frame", ".stack", "input", ".show-error", ".zoom"];
  const [frame, stack, slider, error, zoom] = names.map(part);

  // The line is placed in the visible part of the frame, so it stays in sight.
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

// |truth - painting| through magma: full colour at half of the displayed range.
async function paintError(canvas, truth, painted) {
  truth.loading = painted.loading = "eager"; // a lazy picture would never be decoded
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
    for (let channel = 0; channel < 3; channel++) {
      second.data[at + channel] = colours[3 * level + channel];
    }
  }
  context.putImageData(second, 0, 0);
  canvas.dataset.ready = "yes";
}
