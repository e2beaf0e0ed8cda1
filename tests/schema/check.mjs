// Checks asyncapi.json with the official parser of AsyncAPI, and compiles the JSON Schemas with ajv in strict mode.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";
import Ajv2020 from "ajv/dist/2020.js";

const WARNING = 1; // Severities are 0 error, 1 warning, 2 information, 3 hint.
const folder = process.argv[2];
const read = (name) => readFileSync(`${folder}/${name}.json`, "utf8");

const { document, diagnostics } = await new Parser().parse(read("asyncapi"));
const found = diagnostics.filter(({ severity }) => severity <= WARNING);
for (const { path, message } of found) console.error(`asyncapi.json: ${path.join(".")}: ${message}`);
if (!document || found.length) process.exit(1);
const channels = document.channels().all().map((channel) => channel.id());

for (const name of ["message", "result", "postback"]) {
  // strictRequired: a rule may require a property that another part of the schema defines.
  const ajv = new Ajv2020({ strict: true, strictRequired: false, allowUnionTypes: true, strictTypes: false, formats: { "uri-reference": true } });
  ajv.compile(JSON.parse(read(name)));
}
console.log(`AsyncAPI ${document.version()} is valid, channels ${channels.join(", ")}; three JSON Schemas compile.`);
