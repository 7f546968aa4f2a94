// An application in the client's development mode, which is set by QSTASH_DEV. Sees to it twice that the development
// server runs, publishes with the options in its argument, and prints the answer as the last line.
import { Client, startDevServer } from "@upstash/qstash";
import { registerQStashDev } from "@upstash/qstash/nextjs";

await startDevServer();
await registerQStashDev();
console.log(JSON.stringify(await new Client().publishJSON(JSON.parse(process.argv[2]))));
