"use strict";

// MLflow's sandbox refuses links within the page, because it takes them for other documents, so the
// page scrolls by itself.
for (const link of document.querySelectorAll('a[href^="#"]')) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    document.querySelector(link.getAttribute("href")).scrollIntoView();
  });
}

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const image of document.images) image.loading = "eager";
});

function toggle(button, viewer, name) {
  const on = viewer.classList.toggle(name);
  button.setAttribute("aria-pressed", on);
  return on;
}
