/** The form before a conversation: with whom, in which voice, heard on what. */

import { at, make } from "./page.js";

const SPEAKERS = {
  headphones: "Your voice is sent as it is. This sounds best.",
  loudspeakers: "Your browser removes the agent’s voice from the microphone’s sound. Headphones sound better.",
};

/** A name for people: customer_service becomes Customer service. */
export function title(name) {
  const words = name.replaceAll(/[_-]+/g, " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export class Setup {
  /** @param {function(Wish)} onStart what was chosen, see `wish` */
  constructor(onStart) {
    this.form = at("setup");
    this.form.addEventListener("input", () => this.adapt());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      onStart(this.wish());
    });
    at("host").textContent = location.host;
  }

  /** Offer the server's personas and voices. */
  offer({ personas, voices, persona, voice, max_minutes: minutes }) {
    this.usual = { persona, voice };
    this.minutes = minutes;
    this.personas = new Map(personas.map((persona) => [persona.name, persona]));
    for (const old of document.querySelectorAll(".offered")) old.remove();
    at("personas").prepend(...personas.map(choice));
    at("voice").append(...voices.map(option));
    this.form.elements.persona.value = persona;
    this.adapt();
  }

  /** Show what belongs to the choice. */
  adapt() {
    const persona = this.personas.get(this.form.elements.persona.value);
    at("writing").hidden = Boolean(persona);
    at("prompt").required = !persona;
    at("usual-voice").textContent = `Persona’s default (${this.usualVoice(persona)})`;
    at("speaker-hint").textContent = SPEAKERS[this.form.elements.speaker.value];
  }

  /** The voice that speaks if none is chosen, as the server picks it. */
  usualVoice(persona) {
    return this.usual.voice ?? (persona ?? this.personas.get(this.usual.persona)).voice;
  }

  /**
   * @returns {Wish} `config` as the server wants it (without the rate), a title, the agent's name, whether on
   *   loudspeakers, and how many minutes the server allows, if it says so
   */
  wish() {
    const persona = this.form.elements.persona.value;
    const config = persona ? { persona } : { prompt: at("prompt").value.trim() };
    if (at("voice").value) config.voice = at("voice").value;
    if (at("seed").value) config.seed = at("seed").valueAsNumber;
    const [called, name] = persona ? [title(persona), title(persona)] : ["Custom", "Agent"];
    return { config, title: called, name, loudspeakers: at("loudspeakers").checked, minutes: this.minutes };
  }
}

function option({ name, description }) {
  const words = [name, description].filter(Boolean).join(" · ");
  return make("option", { className: "offered", value: name }, words);
}

function choice({ name, description }) {
  return make(
    "label",
    { className: "choice offered" },
    make("input", { type: "radio", name: "persona", value: name }),
    make("strong", {}, title(name)),
    make("span", { className: "hint" }, description ?? ""),
  );
}
