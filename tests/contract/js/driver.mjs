// The official clients behind a small HTTP server, whose port is the first line on stdout. P is the name of a package.
//
//   POST /call?package=P                      {"options", "method", "arguments"} calls a method of a Client with these
//                                             options; gives {"value"} or {"error": {"name", "message", "status"}}
//   GET  /methods?package=P                   {"all", "called"}: what the package offers, and what was called so far
//   POST /receive/{entry}/{helper}?package=P  is protected by a helper of the package, with the keys of the query
//
// A method is named by the way to it, "messages.get"; of "queue.get" and "Receiver.verify" the first argument makes the
// object. {"$date": ms} stands for a Date, {"$call": [name, ...arguments], ...fields} for the object that a function of
// the package returns, with these fields set.
import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { methods } from "./methods.mjs";
import { protect } from "./receiving.mjs";

const called = {};

const server = createServer(async (request, response) => {
  const url = new URL(request.url, "http://driver");
  const name = url.searchParams.get("package");
  called[name] ??= new Set();
  if (url.pathname === "/methods") {
    answer(response, { all: await methods(name), called: [...called[name]] });
  } else if (url.pathname === "/call") {
    answer(response, await call(name, await text(request)));
  } else {
    const [, , entry, helper] = url.pathname.split("/");
    called[name].add(`${entry}.${helper}`);
    const [currentSigningKey, nextSigningKey] = url.searchParams.getAll("key");
    await protect(await import(`${name}/${entry}`), helper, { currentSigningKey, nextSigningKey }, request, response);
  }
});

async function call(name, document) {
  const library = await import(name);
  const { options, method, arguments: given } = JSON.parse(document, (_, value) => {
    if (value?.$date !== undefined) return new Date(value.$date);
    if (value?.$call === undefined) return value;
    const { $call: [called, ...rest], ...fields } = value;
    return record(called, Object.assign(library[called](...rest), fields));
  });
  try {
    const way = method.split(".");
    const last = way.pop();
    const owner = ownerOf(way, last, given);
    return { value: record(method, await owner[last](...given)) };
  } catch (error) {
    return { error: { name: error.name, message: error.message, status: error.status } };
  }

  function ownerOf(way, last, given) {
    if (way[0] === "Receiver") return new library.Receiver(given.shift());
    if (way.length === 0 && last in library) return library;
    const client = new library.Client({ retry: false, ...options });
    return way[0] === "queue" ? client.queue(given.shift()) : way.reduce((object, key) => object[key], client);
  }

  function record(method, value) {
    called[name].add(method);
    return value;
  }
}

function answer(response, document) {
  response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(document));
}

server.listen(0, "127.0.0.1", () => console.log(server.address().port));
