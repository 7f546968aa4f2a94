// A web app that shows how far its background job is. Postroad keeps the status, so the app has no table of jobs: its own
// status route passes the question on, and the job says where it stands to the URL that came with it.
import { createServer } from "node:http";
import { json, text } from "node:stream/consumers";
import { Client, Receiver } from "@upstash/qstash";

const client = new Client(); // reads QSTASH_URL and QSTASH_TOKEN
const receiver = new Receiver(); // reads QSTASH_CURRENT_SIGNING_KEY and QSTASH_NEXT_SIGNING_KEY

async function route(request) {
  switch (`${request.method} ${request.url}`) {
    case "GET /":
      return { status: 200, type: "text/html; charset=utf-8", body: PAGE };
    case "POST /jobs":
      return startJob(await json(request));
    case "POST /work":
      return work(request.headers, await text(request));
  }
  const [, id] = request.url.split("/api/status/");
  return id ? status(id) : answer(404, { error: "not found" });
}

/** Publish a job to our own /work. The id of the message is the id of the job. */
async function startJob({ rows }) {
  if (!(Number.isInteger(rows) && 1 <= rows && rows <= 100_000)) return answer(400, { error: "from 1 to 100000" });
  const { messageId } = await client.publishJSON({ url: `${address()}/work`, body: { rows }, retries: 5 });
  return answer(202, { id: messageId });
}

/** What the page polls: these three lines keep the token out of the browser. */
async function status(id) {
  const authorization = `Bearer ${process.env.QSTASH_TOKEN}`;
  const found = await fetch(`${process.env.QSTASH_URL}/v2/status/${encodeURIComponent(id)}`, { headers: { authorization } });
  return answer(found.status, await found.json());
}

/** Do a job that Postroad delivers, and say where it stands at 10, 50 and 100 percent. */
async function work(headers, body) {
  try {
    await receiver.verify({ signature: headers["upstash-signature"] ?? "", body, url: `${address()}/work` });
  } catch (error) {
    return answer(401, { error: error.message });
  }
  const { rows } = JSON.parse(body);
  const report = (said) => fetch(headers["upstash-status-url"], { method: "POST", body: JSON.stringify(said) });
  await report({ progress: 10, note: `counting ${rows} rows` });
  await step();
  await report({ progress: 50, note: `writing ${rows} rows`, log: "half of it is done" });
  await step();
  await report({ progress: 100, note: "done", result: { rows } });
  return answer(200, {});
}

/** Where the real work would be. */
function step() {
  return new Promise((resolve) => setTimeout(resolve, Number(process.env.STEP_MS ?? 1500)));
}

function answer(status, document) {
  return { status, type: "application/json", body: JSON.stringify(document) };
}

const PAGE = `<!doctype html>
<title>Progress</title>
<form>
  Export <input name="rows" type="number" value="5000" min="1" max="100000"> rows <button>Begin</button>
</form>
<p><progress id="bar" max="100" value="0"></progress> <span id="note"></span></p>
<script type="module">
  const form = document.querySelector("form"), bar = document.querySelector("#bar"), note = document.querySelector("#note");

  /** Ask until the job has ended; tell each answer. */
  async function poll(id, tell) {
    for (;;) {
      const job = await (await fetch("/api/status/" + id)).json();
      tell(job);
      if (["completed", "failed", "canceled"].includes(job.status)) return job;
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
  }

  form.onsubmit = async (event) => {
    event.preventDefault();
    const body = JSON.stringify({ rows: form.rows.valueAsNumber });
    const { id, error } = await (await fetch("/jobs", { method: "POST", body })).json();
    if (error) return (note.textContent = error);
    const job = await poll(id, ({ progress = 0, note: words = "", status }) => {
      bar.value = progress;
      note.textContent = words || status;
    });
    note.textContent = job.error ?? job.result.rows + " rows are exported.";
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
