// graphile-worker: a hundred jobs at a time out of a local queue, acknowledged in batches.

import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { obey } from "./driver.mjs";

const connectionString = "postgresql://"; // the rest is in PGHOST and its like
const maxPoolSize = 10;
const logger = new Logger(() => (level, message) => {
  // It warns of a pool smaller than its concurrency, but with batches of both kinds a larger one changes nothing.
  if (level === "error") console.error(message);
});
const utils = await makeWorkerUtils({ connectionString, maxPoolSize, logger });
await utils.migrate();
let runner;

await obey({
  enqueue: (message) => utils.addJob("post", message, { maxAttempts: 5 }),
  async start(deliver) {
    const worker = {
      connectionString,
      maxPoolSize,
      logger,
      concurrentJobs: 100,
      // Without a delay each NOTIFY, one for each job, makes it ask for jobs. The last of a burst wait for a poll.
      localQueue: { size: 500, refetchDelay: { durationMs: 10, threshold: 100 } },
      pollInterval: 100,
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0,
    };
    runner = await run({ noHandleSignals: true, taskList: { post: deliver }, preset: { worker } });
  },
  stop: () => runner.stop(),
});
