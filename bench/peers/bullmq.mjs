// BullMQ: one connection for the producer, one worker with a hundred jobs at a time.

import { Queue, Worker } from "bullmq";
import { obey } from "./driver.mjs";

const connection = { path: process.env.REDIS_SOCKET, maxRetriesPerRequest: null };
const defaultJobOptions = { attempts: 5, backoff: { type: "exponential", delay: 1000 }, removeOnComplete: true };

const queue = new Queue("deliveries", { connection, defaultJobOptions });
await queue.waitUntilReady();
let worker;

await obey({
  enqueue: (message) => queue.add("post", message),
  async start(deliver) {
    worker = new Worker("deliveries", (job) => deliver(job.data), { connection, concurrency: 100 });
    worker.on("error", console.error);
    await worker.waitUntilReady();
  },
  stop: () => worker.close(),
});
