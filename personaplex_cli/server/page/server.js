/** What the server says outside a conversation, and the token that it may ask for. */

const TOKEN = "personaplex-token";
const REASONS = {
  loading: ["The model is still loading.", "Try again in a moment."],
  busy: ["The server is busy.", "Try again in a while."],
  ready: ["The server refused the connection.", "Try again. If this goes on, look at what the server prints."],
};

export class TokenNeeded extends Error {}

/** Keep a token until the tab is closed. */
export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

/** Whether a token was given before; if it is asked for again, that one was wrong. */
export function hasToken() {
  return sessionStorage.getItem(TOKEN) !== null;
}

/** A token that came with the page's address, which forgets it. */
export function takeTokenFromAddress() {
  const address = new URL(location.href);
  const token = address.searchParams.get("token");
  if (!token) return;
  keepToken(token);
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
}

/** Version, voices and personas. Throws TokenNeeded, or TypeError if there is no answer. */
export async function information() {
  const headers = hasToken() ? { Authorization: `Bearer ${sessionStorage.getItem(TOKEN)}` } : {};
  const answer = await fetch(new URL("api/info", document.baseURI), { headers, cache: "no-store" });
  if (answer.status === 401) throw new TokenNeeded();
  if (!answer.ok) throw new TypeError(`${answer.status} ${answer.statusText}`);
  return answer.json();
}

/** Where conversations are held. */
export function conversationUrl() {
  const url = new URL("pcm", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  if (hasToken()) url.searchParams.set("token", sessionStorage.getItem(TOKEN));
  return url;
}

/** Why a conversation did not begin, which browsers do not say: what happened, and what to do. */
export async function reason() {
  try {
    await information();
    const health = await fetch(new URL("health", document.baseURI), { cache: "no-store" });
    return REASONS[(await health.json()).state] ?? REASONS.ready;
  } catch (error) {
    if (error instanceof TokenNeeded) return ["The server requires a token.", "Reload this page."];
    return ["The server does not respond.", "Check that it is running and that you are online."];
  }
}
