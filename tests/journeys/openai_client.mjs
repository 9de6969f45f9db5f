// Drives a server with the stock OpenAI client for Node: node openai_client.mjs FOLDER BASE_URL KEY MODEL
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, baseURL, apiKey, model] = process.argv.slice(2);
const entry = createRequire(`${folder}/package.json`).resolve("openai");
const { default: OpenAI } = await import(pathToFileURL(entry).href);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "hello there" }];

const models = [];
for await (const card of client.models.list()) models.push(card.id);
assert(models.includes(model), `${model} is not in ${models}`);

const whole = await client.chat.completions.create({ model, messages });
assert.equal(whole.choices[0].message.role, "assistant");
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);

let text = "";
let usage = null;
const stream = await client.chat.completions.create({
  model,
  messages,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.equal(usage.total_tokens, whole.usage.total_tokens);

const vectors = await client.embeddings.create({ model, input: ["a", "a"] });
assert.equal(vectors.data.length, 2);
assert.deepEqual(vectors.data[0].embedding, vectors.data[1].embedding);
assert(Math.abs(Math.hypot(...vectors.data[0].embedding) - 1) < 1e-3);

await assert.rejects(
  client.chat.completions.create({ model: "no-such-model", messages }),
  (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found",
);
const stranger = new OpenAI({ baseURL, apiKey: "sk-wrong", maxRetries: 0 });
await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
console.log("all as expected");
