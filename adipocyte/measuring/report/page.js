// The wells' values lie in the page; the chosen feature is drawn over the first.
const plates = JSON.parse(document.querySelector("#wells").textContent);
const colours = document.body.dataset.viridis.match(/.{6}/g);
const choice = document.querySelector("#feature");
const maps = [...document.querySelectorAll(".map")];

if (choice) choice.addEventListener("change", draw);
maps.forEach(listen);
draw();
for (const viewer of document.querySelectorAll(".viewer")) {
  for (const [button, name] of [[".show-outlines", "outlined"], [".zoom", "full"]]) {
    const pressed = viewer.querySelector(button);
    if (pressed) pressed.addEventListener("click", () => toggle(pressed, viewer, name));
  }
}

function written(value) {
  if (value === null) return "–";
  return String(Number.isInteger(value) ? value : Number(value.toPrecision(4))).replace("-", "−");
}

// All plates of a magnification have one scale of colours.
function range(magnification, feature) {
  const alike = plates.filter((plate) => plate.magnification === magnification);
  const values = alike.flatMap((plate) => plate.values[feature]).filter((value) => value !== null);
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [
    Infinity,
    -Infinity,
  ]);
}

function draw() {
  maps.forEach((map, number) => {
    const plate = plates[number];
    const values = plate.values[choice.value];
    const [low, high] = range(plate.magnification, choice.value);
    for (const well of map.querySelectorAll(".well")) {
      const at = Number(well.dataset.at);
      paint(well, values[at], low, high);
      const words = [plate.wells[at], written(values[at]), plate.given[at]].filter(Boolean);
      well.setAttribute("aria-label", words.join(" · "));
      well.removeAttribute("title"); // the line below the map says it
    }
    map.querySelector(".low").textContent = written(low <= high ? low : null);
    map.querySelector(".high").textContent = written(low <= high ? high : null);
    grade(map, plate.grades[choice.value]);
    tell(map, map.querySelector(".told"));
  });
}

// What a feature of painted images is worth; true images have no grades.
function grade(map, graded) {
  const [worth, reason] = graded ?? ["", ""];
  map.classList.toggle("worthless", worth === "not");
  const words = worth === "not" ? "not to be trusted" : worth;
  map.querySelector(".worth").textContent = [words, reason].filter(Boolean).join(": ");
}

function paint(well, value, low, high) {
  well.classList.toggle("empty", value === null);
  if (value === null) return;
  const share = high > low ? (value - low) / (high - low) : 0.5;
  well.style.setProperty("--fill", `#${colours[Math.round(255 * share)]}`);
}

function tell(map, well) {
  if (!well) return;
  map.querySelector(".told")?.classList.remove("told");
  well.classList.add("told");
  map.querySelector("output").textContent = well.getAttribute("aria-label");
}

// One well of a map is in the order of the Tab key; arrows lead to the next well that was imaged.
function listen(map) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  map.addEventListener("mouseover", (event) => tell(map, event.target.closest(".well")));
  map.addEventListener("focusin", (event) => tell(map, event.target.closest(".well")));
  map.addEventListener("keydown", (event) => {
    const well = event.target.closest(".well");
    if (!well || !(event.key in steps)) return;
    event.preventDefault();
    const next = beside(well, ...steps[event.key]);
    if (!next) return;
    well.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}

function beside(well, down, right) {
  const lines = well.closest("tbody").rows;
  let row = well.parentElement.sectionRowIndex + down;
  let column = well.cellIndex + right;
  while (lines[row]?.cells[column]) {
    if (lines[row].cells[column].matches(".well")) return lines[row].cells[column];
    row += down;
    column += right;
  }
  return null;
}
