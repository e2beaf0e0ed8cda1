// Serves the handler of docs/receivers/receiver.ts with Node: `node receiver_server.mjs COMPILED PORT`.
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const { default: handler } = await import(pathToFileURL(process.argv[2]).href);

createServer(async (incoming, outgoing) => {
  const chunks = await incoming.toArray();
  const url = `http://127.0.0.1${incoming.url}`;
  const request = new Request(url, { method: "POST", headers: incoming.headers, body: Buffer.concat(chunks) });
  outgoing.writeHead((await handler.fetch(request)).status).end();
}).listen(Number(process.argv[3]), "127.0.0.1");
