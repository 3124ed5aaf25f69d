/** What every part of the page does with it. */

export const at = (id) => document.getElementById(id);

/** Say what went wrong and what to do about it, or nothing more. */
export function notice(what = "", hint = "") {
  at("notice-what").textContent = what;
  at("notice-hint").textContent = hint;
  at("notice").hidden = !what;
  if (what) at("notice").scrollIntoView({ block: "nearest" });
}

/** A new element with these properties and contents. */
export function make(tag, properties = {}, ...contents) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...contents);
  return element;
}
