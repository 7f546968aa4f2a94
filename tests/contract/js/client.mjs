// The official client, driven line by line: {"method": "messages.get", "arguments": ["msg_..."]} comes in on stdin,
// {"value": ...} or {"error": {"name", "message", "status"}} goes out on stdout. {"$date": ms} stands for a Date.
import { createInterface } from "node:readline";
import { Client } from "@upstash/qstash";

const client = new Client({ retry: false, ...JSON.parse(process.argv[2]) });

for await (const line of createInterface({ input: process.stdin })) {
  const { method, arguments: given } = JSON.parse(line, (_, value) =>
    value?.$date === undefined ? value : new Date(value.$date),
  );
  const path = method.split(".");
  const name = path.pop();
  const owner = path.reduce((object, key) => object[key], client);
  try {
    answer({ value: await owner[name](...given) });
  } catch (error) {
    answer({ error: { name: error.name, message: error.message, status: error.status } });
  }
}

function answer(document) {
  process.stdout.write(`${JSON.stringify(document)}\n`);
}
