// An application that receives: configured by QSTASH_CURRENT_SIGNING_KEY and QSTASH_NEXT_SIGNING_KEY. Prints
// {"port"} once it listens, then a line for each request, which it answers with 200 when the signature is right and
// with 403 when it is not.
import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { Receiver } from "@upstash/qstash";

const receiver = new Receiver();

const server = createServer(async (request, response) => {
  const body = await text(request);
  const url = `http://${request.headers.host}${request.url}`;
  const signature = request.headers["upstash-signature"] ?? "";
  const accepted = await receiver.verify({ signature, body, url }).catch(() => false);
  response.writeHead(accepted ? 200 : 403).end(accepted ? "accepted" : "invalid signature");
  console.log(JSON.stringify({ accepted, body, messageId: request.headers["upstash-message-id"] }));
});

server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
