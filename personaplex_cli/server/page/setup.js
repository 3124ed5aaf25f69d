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
  offer({ personas, voices, persona, voice }) {
    this.usual = { persona, voice };
    this.personas = new Map(personas.map((persona) => [persona.name, persona]));
    at("personas").prepend(...personas.map(choice));
    at("voice").append(
      ...voices.map(({ name, description }) => new Option([name, description].filter(Boolean).join(" · "), name)),
    );
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

  /** @returns {Wish} `config` as the server wants it (without the rate), a title, and whether on loudspeakers */
  wish() {
    const persona = this.form.elements.persona.value;
    const config = persona ? { persona } : { prompt: at("prompt").value.trim() };
    if (at("voice").value) config.voice = at("voice").value;
    if (at("seed").value) config.seed = at("seed").valueAsNumber;
    return { config, title: persona ? title(persona) : "Custom", loudspeakers: at("loudspeakers").checked };
  }
}

function choice({ name, description }) {
  return make(
    "label",
    { className: "choice" },
    make("input", { type: "radio", name: "persona", value: name }),
    make("strong", {}, title(name)),
    make("span", { className: "hint" }, description ?? ""),
  );
}
