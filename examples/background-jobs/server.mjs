// A web app whose slow work is done in the background. The page asks for a job, the app publishes it, and Postroad
// delivers it back to the app in a request of its own: signed, and again later if the app fails or is away.
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { json, text } from "node:stream/consumers";
import { Client, Receiver } from "@upstash/qstash";

const client = new Client(); // reads QSTASH_URL and QSTASH_TOKEN
const receiver = new Receiver(); // reads QSTASH_CURRENT_SIGNING_KEY and QSTASH_NEXT_SIGNING_KEY
const jobs = new Map(); // would be a table in a real app

async function route(request) {
  switch (`${request.method} ${request.url}`) {
    case "GET /":
      return { status: 200, type: "text/html; charset=utf-8", body: PAGE };
    case "POST /jobs":
      return startJob(await json(request));
    case "POST /work":
      return work(request.headers["upstash-signature"], await text(request));
  }
  const job = jobs.get(request.url.split("/jobs/")[1]);
  return job ? answer(200, job) : answer(404, { error: "not found" });
}

/** Publish a job to our own /work, and answer at once. */
async function startJob({ number }) {
  if (!(Number.isInteger(number) && 1 <= number && number <= 100_000)) return answer(400, { error: "from 1 to 100000" });
  const id = randomUUID();
  jobs.set(id, { state: "waiting" });
  const { messageId } = await client.publishJSON({ url: `${address()}/work`, body: { id, number }, retries: 5 });
  return answer(202, { id, messageId });
}

/** Do a job that Postroad delivers. It may be delivered twice, so doing it again must be harmless. */
async function work(signature = "", body) {
  try {
    await receiver.verify({ signature, body, url: `${address()}/work` });
  } catch (error) {
    return answer(401, { error: error.message }); // which is no 2xx, so Postroad will deliver it again
  }
  const { id, number } = JSON.parse(body);
  jobs.set(id, { state: "done", result: `Prime number ${number} is ${prime(number)}.` });
  return answer(200, {});
}

function prime(number) {
  let candidate = 1;
  while (number > 0) if (isPrime(++candidate)) number--;
  return candidate;
}

function isPrime(candidate) {
  for (let divisor = 2; divisor ** 2 <= candidate; divisor++) if (candidate % divisor === 0) return false;
  return true;
}

function answer(status, document) {
  return { status, type: "application/json", body: JSON.stringify(document) };
}

const PAGE = `<!doctype html>
<title>Background jobs</title>
<form>
  Which prime number? <input name="number" type="number" value="50000" min="1" max="100000">
  <button>Find it</button>
</form>
<p id="job"></p>
<script>
  const form = document.querySelector("form"), shown = document.querySelector("#job");
  form.onsubmit = async (event) => {
    event.preventDefault();
    const body = JSON.stringify({ number: form.number.valueAsNumber });
    const { id, error } = await (await fetch("/jobs", { method: "POST", body })).json();
    let job = { result: error };
    while (!job.result) {
      shown.textContent = "Waiting …";
      await new Promise((resolve) => setTimeout(resolve, 300));
      job = await fetch("/jobs/" + id).then((response) => response.json()).catch(() => job);
    }
    shown.textContent = job.result;
  };
</script>
`;

/** Where Postroad finds this app. */
function address() {
  return process.env.APP_URL ?? `http://127.0.0.1:${server.address().port}`;
}

const server = createServer(async (request, response) => {
  const { status, type, body } = await route(request).catch((error) => answer(500, { error: error.message }));
  response.writeHead(status, { "Content-Type": type }).end(body);
});

server.listen(process.env.PORT ?? 3000, "127.0.0.1", () => console.log(`Open ${address()}`));
