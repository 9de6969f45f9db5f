// A SurrealDB server for the tests: the engine of the npm package @surrealdb/node behind a WebSocket.
//
//   node surreal_server.mjs <folder with node_modules> <data folder> <port or 0>
//
// Prints its port, and ends with its standard input. Each connection has a session of its own. Unlike
// the real server it lets a session in that has not signed in; what a sign-in answers is the engine's.

import { createRequire } from "node:module";
import { randomUUID } from "node:crypto";
import { join, resolve } from "node:path";

const [folder, data, port] = process.argv.slice(2);
const require = createRequire(join(resolve(folder), "index.js"));
const { WebSocketServer } = require("ws");

// The package's own entry point needs the whole JavaScript client; the engine alone does not.
const libc = process.platform === "linux" ? "-gnu" : "";
const library = `surrealdb-node.${process.platform}-${process.arch}${libc}.node`;
const { SurrealNodeEngine } = require(`./node_modules/@surrealdb/node/dist/${library}`);

function text(value) {
  const bytes = Buffer.from(value);
  const head = bytes.length < 24 ? [0x60 + bytes.length] : [0x79, bytes.length >> 8, bytes.length & 255];
  return Buffer.concat([Buffer.from(head), bytes]);
}

// Just enough CBOR for requests of our own: text, short arrays, short maps.
function encode(value) {
  if (typeof value === "string") return text(value);
  if (Array.isArray(value)) return Buffer.concat([Buffer.of(0x80 + value.length), ...value.map(encode)]);
  const pairs = Object.entries(value).flatMap(([key, item]) => [text(key), encode(item)]);
  return Buffer.concat([Buffer.of(0xa0 + pairs.length / 2), ...pairs]);
}

const engine = await SurrealNodeEngine.connect(`surrealkv://${resolve(data)}`, {});
const call = (request) => engine.execute(encode({ id: randomUUID(), ...request }));

const users = `
  DEFINE USER IF NOT EXISTS root ON ROOT PASSWORD 'root-password' ROLES OWNER;
  DEFINE USER IF NOT EXISTS brief ON ROOT PASSWORD 'brief-password' ROLES OWNER DURATION FOR SESSION 1s;
  DEFINE NAMESPACE IF NOT EXISTS insula; USE NS insula;
  DEFINE DATABASE IF NOT EXISTS main; USE DB main;
  DEFINE USER IF NOT EXISTS guest ON DATABASE PASSWORD 'guest-password' ROLES EDITOR`;
await call({ method: "query", params: [users, {}] });

// A request is a short map that begins with its id (36 characters): a3, 62 "id", 78 24 "...".
const ID = { start: 1, end: 1 + 3 + 2 + 36 };
const ERROR = encode({ error: "" }).subarray(0, -1);

async function answer(request, session) {
  const more = [text("session"), text(session)];
  const asked = Buffer.concat([Buffer.of(request[0] + 1), request.subarray(1), ...more]);
  const result = Buffer.from(await engine.execute(asked));
  const failed = result.subarray(0, ERROR.length).equals(ERROR);
  const rest = failed ? [result.subarray(1)] : [text("result"), result];
  return Buffer.concat([Buffer.of(0xa2), request.subarray(ID.start, ID.end), ...rest]);
}

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port) });

server.on("connection", async (socket) => {
  const session = randomUUID();
  const ready = call({ method: "attach", session }).then(() => call({ method: "invalidate", session }));
  socket.on("message", async (request) => {
    await ready;
    socket.send(await answer(request, session));
  });
  socket.on("close", () => ready.then(() => call({ method: "detach", session })));
});

server.on("listening", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
