// The names of all methods that a package has: of a Client, of whatever a Client hands out, of a Receiver, and the
// functions of each entry of the package, those of the main one without a prefix.
const ENTRIES = ["nextjs", "h3", "nuxt", "svelte", "solidjs", "hono", "cloudflare", "workflow"];
const FACTORIES = ["queue", "chat"];

export async function methods(name) {
  const library = await import(name);
  const client = new library.Client({ baseUrl: "http://127.0.0.1", token: "none" });
  const names = [...functions(library), ...prefixed("Receiver", methodsOf(library.Receiver.prototype))];
  for (const key of propertiesOf(client)) {
    const value = FACTORIES.includes(key) ? client[key]() : client[key];
    if (typeof value === "object") names.push(...prefixed(key, methodsOf(value)));
    if (typeof value === "function") names.push(key);
  }
  for (const entry of ENTRIES) names.push(...prefixed(entry, functions(await import(`${name}/${entry}`))));
  return names.sort();
}

function propertiesOf(object) {
  const prototype = Object.getPrototypeOf(object);
  const holders = prototype === Object.prototype ? [object] : [object, prototype];
  return holders.flatMap(Object.getOwnPropertyNames).filter((name) => name !== "constructor");
}

function methodsOf(object) {
  return propertiesOf(object).filter((name) => typeof object[name] === "function");
}

function functions(library) {
  return Object.keys(library).filter((name) => typeof library[name] === "function" && !isClass(library[name]));
}

function isClass(value) {
  return Function.prototype.toString.call(value).startsWith("class");
}

function prefixed(prefix, names) {
  return names.map((name) => `${prefix}.${name}`);
}
