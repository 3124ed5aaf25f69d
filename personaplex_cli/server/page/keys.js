/** Keys stand for the buttons that are marked with them, as in the terminal. */

import { at } from "./page.js";

export function listen() {
  document.addEventListener("keydown", press);
  at("help-button").addEventListener("click", () => at("help").showModal());
  at("help-close").addEventListener("click", () => at("help").close());
}

/** Presses the button with this key, if that can be pressed now. */
function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.matches?.("input, select, textarea")) return;
  if (at("help").open) {
    if (event.key === "?") at("help").close();
    return;
  }
  const button = [...document.querySelectorAll("[aria-keyshortcuts]")].find(
    (each) => each.getAttribute("aria-keyshortcuts") === event.key.toLowerCase() && each.checkVisibility(),
  );
  button?.click();
}
