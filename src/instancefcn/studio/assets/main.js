// Starts the page: which modes there are, light or dark, and the switch between the modes.
import {$, toast} from "./dom.js";
import {get} from "./api.js";
import {startLook} from "./look.js";
import {startLabel} from "./label.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => {
  const chosen = localStorage.getItem("theme");
  document.documentElement.dataset.theme = chosen ?? (dark.matches ? "dark" : "light");
};
dark.addEventListener("change", paint);
paint();
$("#theme").addEventListener("click", () => {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  // The system's own choice needs no memory: the page follows it when it changes.
  if ((next === "dark") === dark.matches) localStorage.removeItem("theme");
  else localStorage.setItem("theme", next);
  paint();
  dispatchEvent(new Event("repaint"));
});

const show = (mode) => {
  document.body.dataset.mode = mode;
  for (const name of ["label", "look"]) {
    $(`main#${name}`).hidden = name !== mode;
    $(`#mode-${name}`).setAttribute("aria-pressed", String(name === mode));
  }
  $(".for-label").hidden = $("#standing").hidden = mode !== "label";
  dispatchEvent(new Event("resize"));
};

try {
  const page = await get("/api/page");
  startLook(page);
  if (page.label) {
    $(".modes").hidden = false;
    for (const name of ["label", "look"]) {
      $(`#mode-${name}`).addEventListener("click", () => {
        history.replaceState(null, "", name === "look" ? "#look" : "#");
        show(name);
      });
    }
    show(location.hash === "#look" ? "look" : "label");
    await startLabel();
  } else {
    show("look");
  }
} catch (error) {
  toast(error.message, true);
  throw error;
}
