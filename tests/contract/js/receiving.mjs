// Routes of web frameworks that a helper of the package protects, each served with what its framework would hand over.
import { buffer } from "node:stream/consumers";

const FRAMEWORKS = {
  verifySignature: ofPages,
  verifySignatureAppRouter: ofRequest,
  verifySignatureEdge: ofRequest,
  verifySignatureSvelte: ofEvent,
  verifySignatureSolidjs: ofEvent,
  verifySignatureH3: ofNode,
  verifySignatureNuxt: ofNode,
};

export async function protect(entry, name, keys, request, response) {
  try {
    await FRAMEWORKS[name](entry[name], keys, request, response);
  } catch (error) {
    response.writeHead(500).end(error.message);
  }
}

async function ofPages(helper, keys, request, response) {
  response.status = (status) => Object.assign(response, { statusCode: status });
  response.send = (body) => response.write(body);
  await helper((_, response) => response.status(200).end("handled"), keys)(request, response);
}

async function ofRequest(helper, keys, request, response) {
  const answer = await helper(() => new Response("handled"), keys)(await asWeb(request));
  response.writeHead(answer.status).end(await answer.text());
}

async function ofEvent(helper, keys, request, response) {
  const answer = await helper(() => new Response("handled"), keys)({ request: await asWeb(request) });
  response.writeHead(answer.status).end(await answer.text());
}

async function ofNode(helper, keys, request, response) {
  const event = { method: request.method, node: { req: request, res: response } };
  const { status, body } = await helper(() => ({ status: 200, body: "handled" }), keys)(event);
  response.writeHead(status).end(body);
}

async function asWeb(request) {
  const url = `http://${request.headers.host}${request.url}`;
  return new Request(url, { method: request.method, headers: request.headers, body: await buffer(request) });
}
