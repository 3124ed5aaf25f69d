// A connection of the npm package `openai`, made by its own classes, for a program that speaks with it by lines of JSON:
// each line that comes in is an event to send, each that goes out is one that came.
//
//     NODE_PATH=.../node_modules node npm_client.cjs ws|browser|beta|live BASE_URL API_KEY
"use strict";

const { createInterface } = require("node:readline");
const { OpenAI } = require("openai");
const { OpenAIRealtimeWS: BetaWS } = require("openai/beta/realtime/ws");
const { OpenAIRealtimeWebSocket } = require("openai/realtime/websocket");
const { OpenAIRealtimeWS } = require("openai/realtime/ws");
const { LiveWS } = require("openai/resources/live/ws");

const CONNECTIONS = {
  ws: (client) => new OpenAIRealtimeWS({ model: "gpt-realtime" }, client),
  browser: (client) => new OpenAIRealtimeWebSocket({ model: "gpt-realtime" }, client),
  beta: (client) => new BetaWS({ model: "gpt-4o-realtime-preview" }, client),
  live: (client) => new LiveWS(client),
};

if (require.main === module) {
  const [kind, baseURL, apiKey] = process.argv.slice(2);
  const connection = CONNECTIONS[kind](new OpenAI({ baseURL, apiKey }));
  connection.on("event", (event) => console.log(JSON.stringify(event)));
  connection.on("error", (error) => console.error(error.message));
  createInterface({ input: process.stdin })
    .on("line", (line) => connection.send(JSON.parse(line)))
    .on("close", () => connection.close());
}
