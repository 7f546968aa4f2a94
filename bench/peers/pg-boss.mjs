// pg-boss: four workers in one process, each taking batches whose jobs it settles one by one.

import { PgBoss } from "pg-boss";
import { obey } from "./driver.mjs";

const QUEUE = "deliveries";
const WORK = {
  localConcurrency: 4,
  batchSize: 500,
  burstWhenBatchFull: true,
  perJobResults: true,
  pollingIntervalSeconds: 0.5, // its least; with its NOTIFY for each job it did a fifth as many
};

const boss = new PgBoss({ max: 32 }); // it takes the database from PGHOST and its like
boss.on("error", console.error);
await boss.start();
await boss.createQueue(QUEUE, { retryLimit: 4, retryDelay: 1, retryBackoff: true });

await obey({
  enqueue: (message) => boss.send(QUEUE, message),
  start: (deliver) => boss.work(QUEUE, WORK, (jobs) => Promise.all(jobs.map((job) => outcome(job, deliver)))),
  stop: () => boss.offWork(QUEUE, { wait: true }),
});

async function outcome({ id, data }, deliver) {
  try {
    await deliver(data);
    return { id, status: "completed" };
  } catch (error) {
    return { id, status: "failed", output: { message: error.message } };
  }
}
