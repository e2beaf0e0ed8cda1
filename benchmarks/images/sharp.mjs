// Does the same as contenders.py, for sharp: node sharp.mjs NAME SOURCE FOLDER RUNS [SECONDS]
//   sharp               decoded once, to the largest size; the others are made from it
//   sharp, size by size as in its documentation: each size from the source

import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";

const [name, source, folder, runs, enough = 0.5] = process.argv.slice(2);
const sharp = createRequire(path.join(process.env.PEERS, "package.json"))("sharp");
sharp.concurrency(1);
sharp.cache(false);

const SIDES = [800, 250, 50];

async function once(data, format) {
  const largest = await sharp(data).resize(SIDES[0], SIDES[0]).raw().toBuffer({ resolveWithObject: true });
  const raw = { raw: { width: largest.info.width, height: largest.info.height, channels: largest.info.channels } };
  const made = {};
  for (const side of SIDES) {
    made[side] = await sharp(largest.data, raw).resize(side, side).toFormat(format).toBuffer();
  }
  return made;
}

async function sizeBySize(data, format) {
  const made = {};
  for (const side of SIDES) made[side] = await sharp(data).resize(side, side).toFormat(format).toBuffer();
  return made;
}

function peakBytes() {
  if (!fs.existsSync("/proc/self/status")) return process.resourceUsage().maxRSS * 1024;
  return Number(/VmHWM:\s+(\d+)/.exec(fs.readFileSync("/proc/self/status", "utf8"))[1]) * 1024;
}

const render = name === "sharp" ? once : sizeBySize;
const data = fs.readFileSync(source);
const { format } = await sharp(data).metadata();
const before = peakBytes();
const cpu = [];
let made = await render(data, format);
while (cpu.length < Number(runs) && cpu.reduce((a, b) => a + b, 0) < Number(enough)) {
  const start = process.cpuUsage();
  made = await render(data, format);
  const { user, system } = process.cpuUsage(start);
  cpu.push((user + system) / 1e6);
}
for (const side of SIDES) fs.writeFileSync(path.join(folder, String(side)), made[side]);
console.log(JSON.stringify({ cpu, memory: peakBytes() - before }));
