// An application that publishes: configured by QSTASH_URL and QSTASH_TOKEN, or by QSTASH_DEV. Takes the options of
// publishJSON as its argument and prints the answer as the last line.
import { Client } from "@upstash/qstash";

const client = new Client();

console.log(JSON.stringify(await client.publishJSON(JSON.parse(process.argv[2]))));
