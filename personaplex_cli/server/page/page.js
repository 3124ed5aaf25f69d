/** What every part of the page does with it. */

export const at = (id) => document.getElementById(id);

/** Say what went wrong and what to do about it, or nothing more; `calm` if it mends itself. */
export function notice(what = "", hint = "", calm = false) {
  at("notice-what").textContent = what;
  at("notice-hint").textContent = hint;
  at("notice").hidden = !what;
  at("notice").classList.toggle("calm", calm);
  if (what) at("notice").scrollIntoView({ block: "nearest" });
}

/** A new element with these properties and contents. */
export function make(tag, properties = {}, ...contents) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...contents);
  return element;
}

/** Have the browser save a file. */
export function save(blob, name) {
  const href = URL.createObjectURL(blob);
  make("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}
