// The sink behind TLS: counts signed POSTs, and tells how long they took; the same questions as `sink.c` answers.
//   node tls_sink.mjs PORT CERTIFICATE KEY
import { readFileSync } from "node:fs";
import { createServer } from "node:https";

const [port, certificate, key] = process.argv.slice(2);
let seen;
let latencies;
let stats;

function reset() {
  seen = new Set();
  latencies = [];
  stats = { count: 0, unique: 0, failed: 0, sig: 0, first_us: 0, last_us: 0 };
}

function quantile(q) {
  return latencies.length ? latencies[Math.floor((latencies.length - 1) * q)] : 0;
}

function arrived(request, body) {
  const now = performance.timeOrigin + performance.now();
  const text = body.toString("latin1", 0, 256);
  const number = /"n":\s*(\d+)/.exec(text);
  const sent = /"ts":\s*(\d+)/.exec(text);
  stats.first_us ||= now * 1000;
  stats.last_us = now * 1000;
  stats.count += 1;
  stats.sig += "upstash-signature" in request.headers ? 1 : 0;
  if (number) seen.add(Number(number[1]));
  if (sent) latencies.push(Math.max(0, now - Number(sent[1]) / 1000));
}

function answer(request, response, body) {
  if (request.url.startsWith("/__reset")) {
    reset();
  } else if (request.url === "/__stats") {
    latencies.sort((a, b) => a - b);
    const said = { ...stats, unique: seen.size, p50: quantile(0.5), p99: quantile(0.99), max: quantile(1) };
    response.end(JSON.stringify(said));
    return;
  } else {
    arrived(request, body);
  }
  response.end("ok");
}

reset();
createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, (request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => answer(request, response, parts.length === 1 ? parts[0] : Buffer.concat(parts)));
}).listen(Number(port), "127.0.0.1");
