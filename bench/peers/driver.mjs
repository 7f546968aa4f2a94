// What all queues for Node.js share here: orders from standard input, bodies, bursts, and the delivery by HTTP.

import { createInterface } from "node:readline";
import { Pool } from "undici";

const CONNECTIONS = 100;
const PAD = "x".repeat(1024);

/**
 * Obey orders, a line each, until standard input ends; `done <number> <JSON>` is the answer to each.
 * `queue` has `enqueue(message)`, which gives a promise, `start(deliver)` and `stop()` for its worker.
 */
export async function obey(queue) {
  const orders = {
    burst: ([url, count, callers]) => burst(queue, url, Number(count), Number(callers)),
    steady: ([url, count, rate]) => steady(queue, url, Number(count), Number(rate)),
    start: () => queue.start(deliver),
    stop: () => queue.stop(),
  };
  console.log("ready");
  for await (const line of createInterface(process.stdin)) {
    const [number, order, ...rest] = line.split(" ");
    console.log("done", number, JSON.stringify((await orders[order](rest)) ?? {}));
  }
  process.exit();
}

/** Enqueue `count` messages, `callers` calls at a time. */
async function burst(queue, url, count, callers) {
  const now = clock();
  const taken = [];
  let next = 0;
  const began = now();
  async function caller() {
    while (next < count) {
      const sent = now();
      await queue.enqueue({ url, body: text(next++, sent) });
      taken.push(now() - sent);
    }
  }
  await Promise.all(Array.from({ length: callers }, caller));
  return summary(taken, now() - began);
}

/** Enqueue `rate` messages a second, whatever becomes of those before. */
async function steady(queue, url, count, rate) {
  const now = clock();
  const taken = [];
  const began = now();
  async function one(n) {
    const sent = now();
    await queue.enqueue({ url, body: text(n, sent) });
    taken.push(now() - sent);
  }
  const calls = [];
  for (let n = 0; n < count; n++) {
    const early = began + (n / rate) * 1e6 - now();
    if (early > 0) await new Promise((resolve) => setTimeout(resolve, early / 1e3));
    calls.push(one(n));
  }
  await Promise.all(calls);
  return summary(taken, now() - began);
}

/** A clock of microseconds since 1970: the system's own, as Node.js tells it, has only milliseconds. */
function clock() {
  const before = Date.now();
  while (Date.now() === before);
  const offset = Date.now() - performance.now();
  return () => Math.round((offset + performance.now()) * 1e3);
}

/** 1 KB of JSON with what the sink reads. */
function text(n, sent) {
  const head = `{"n":${n},"ts":${sent},"pad":"`;
  return head + PAD.slice(head.length + 2) + '"}';
}

function summary(taken, microseconds) {
  taken.sort((a, b) => a - b);
  const percentile = (part) => taken[Math.floor((taken.length - 1) * part)] / 1e3;
  return { per_second: (taken.length / microseconds) * 1e6, p50: percentile(0.5), p99: percentile(0.99) };
}

const pools = new Map();

/** POST the body of a message, and throw unless the answer is a 2xx. */
async function deliver({ url, body }) {
  const { origin, pathname } = new URL(url);
  let pool = pools.get(origin);
  if (!pool) pools.set(origin, (pool = new Pool(origin, { connections: CONNECTIONS, pipelining: 1 })));
  const { statusCode, body: answer } = await pool.request({
    path: pathname,
    method: "POST",
    headers: { "content-type": "application/json" },
    body,
  });
  await answer.dump();
  if (statusCode < 200 || statusCode > 299) throw new Error(`status ${statusCode}`);
}
