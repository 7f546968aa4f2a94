// Verifies one request, {"signature", "body", "url", "currentSigningKey", "nextSigningKey"} on stdin, and prints
// {"valid": true} or {"valid": false, "reason": "..."}.
import { text } from "node:stream/consumers";
import { Receiver } from "@upstash/qstash";

const { currentSigningKey, nextSigningKey, ...request } = JSON.parse(await text(process.stdin));

try {
  console.log(JSON.stringify({ valid: await new Receiver({ currentSigningKey, nextSigningKey }).verify(request) }));
} catch (error) {
  console.log(JSON.stringify({ valid: false, name: error.name, reason: error.message }));
}
