// What pages need of a browser beyond HTML: what is live, times in words, copying, shortcuts. Pages read well without it.
"use strict";

const LIVE_MS = 2000;
let paused = false;

// Times

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const short = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const units = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];

function span(seconds) {
  if (seconds < 1) return "now";
  const at = units.findIndex(([, size]) => seconds >= size);
  const [name, size] = units[at];
  const rest = at < units.length - 1 && at > 0 ? Math.floor((seconds % size) / units[at + 1][1]) : 0;
  return `${Math.floor(seconds / size)} ${name}` + (rest ? ` ${rest} ${units[at + 1][0]}` : "");
}

function show(time) {
  const at = new Date(time.dataset.ms ? Number(time.dataset.ms) : time.dateTime);
  const seconds = Math.round((Date.now() - at) / 1000);
  const kind = time.dataset.time;
  let words;
  if (kind === "full") words = full.format(at);
  else if (kind === "short") words = short.format(at);
  else if (seconds === 0) words = "now";
  else words = seconds > 0 ? `${span(seconds)} ago` : `in ${span(-seconds)}`;
  if (time.textContent !== words) time.textContent = words;
  if (!time.dataset.zoned) {
    time.dataset.zoned = "1";
    time.title = `${full.format(at)} ${zone}\n${at.toISOString()}`;
  }
}

function showTimes(root = document) {
  for (const time of root.querySelectorAll("time[data-time]")) show(time);
}

// What is live: pieces of the page that are asked for anew, and rows that are put right where they stand

async function freshen(table) {
  const rows = [...table.querySelectorAll("tbody tr[data-key]")];
  const ids = rows.map((row) => row.dataset.key).join(",");
  const answer = await fetch(`${table.dataset.rows}&ids=${encodeURIComponent(ids)}`, { headers: { "X-Live": "1" } });
  if (answer.status === 401) return location.reload();
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(`<table><tbody>${await answer.text()}</tbody></table>`, "text/html");
  for (const row of rows) {
    const now = fresh.querySelector(`tr[data-key="${CSS.escape(row.dataset.key)}"]`);
    if (!now) continue;
    for (const cell of now.querySelectorAll("[data-cell]")) {
      const old = row.querySelector(`[data-cell="${cell.dataset.cell}"]`);
      const time = cell.querySelector("time");
      if (old && time ? old.querySelector("time")?.dateTime !== time.dateTime : old && old.innerHTML !== cell.innerHTML) {
        old.replaceChildren(...cell.childNodes);
        showTimes(old);
      }
    }
  }
  const news = answer.headers.get("X-News") || "0";
  const link = document.querySelector("[data-news]");
  if (link && news !== "0") {
    const words = `${news} new`;
    if (link.textContent !== words) link.textContent = words;
    link.hidden = false;
  }
}

async function live() {
  if (!paused && !document.hidden) {
    for (const piece of document.querySelectorAll("[data-live]")) {
      if (!piece.classList.contains("htmx-request")) htmx.trigger(piece, "live");
    }
    for (const table of document.querySelectorAll("table[data-rows]")) {
      try { await freshen(table); } catch { /* the server is away; the next turn asks again */ }
    }
  }
  setTimeout(live, LIVE_MS);
}

function pause(is) {
  paused = is;
  for (const button of document.querySelectorAll("[data-pause]")) {
    button.setAttribute("aria-pressed", String(is));
    button.textContent = is ? "Updates are paused" : "Pause updates";
  }
}

// What was opened stays open when the piece around it is new.
const opened = new Map();
document.addEventListener("toggle", (event) => {
  if (event.target.tagName === "DETAILS" && event.target.id) opened.set(event.target.id, event.target.open);
}, true);
document.addEventListener("htmx:after:swap", () => {
  for (const [id, open] of opened) {
    const found = document.getElementById(id);
    if (found && found.open !== open) found.open = open;
  }
  showTimes();
  markField();
});

// The field that an answer is about is marked as wrong.
function markField() {
  if (!document.getElementById("check")) return;
  const problem = document.querySelector("#check [data-field]");
  for (const field of document.querySelectorAll(".builder [name]")) {
    if (problem && field.name === problem.dataset.field) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }
}

// Copying, also where the clipboard is not to be had: on plain HTTP

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "hidden";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.copy !== undefined) {
    await copy(button.dataset.copy || document.getElementById(button.dataset.copyFrom).textContent);
    button.dataset.done = "1";
    setTimeout(() => delete button.dataset.done, 1500);
  }
  if (button.dataset.pause !== undefined) pause(!paused);
});

// Boxes that tick all others

document.addEventListener("change", (event) => {
  const box = event.target;
  if (box.dataset.all === undefined) return;
  for (const one of document.querySelectorAll(`input[type="checkbox"][name="${CSS.escape(box.dataset.all)}"]`)) one.checked = box.checked;
});

// What is typed, explained by the server as one types

function explain(piece) {
  const target = document.getElementById(piece.dataset.wordsTo);
  let turn = 0;
  let wait;
  piece.addEventListener("input", () => {
    clearTimeout(wait);
    wait = setTimeout(async () => {
      const mine = ++turn;
      const typed = new URLSearchParams(piece.dataset.wordsOf.split(" ").map((name) => [name, piece.querySelector(`[name="${name}"]`).value]));
      try {
        const answer = await fetch(`${piece.dataset.words}?${typed}`, { headers: { "X-Live": "1" } });
        if (!answer.ok || mine !== turn) return;
        target.innerHTML = await answer.text();
        showTimes(target);
      } catch { /* the server is away; the form says so when it is sent */ }
    }, 250);
  });
}

for (const piece of document.querySelectorAll("[data-words]")) explain(piece);

// Shortcuts

const places = { o: "", m: "/messages", d: "/dlq", s: "/schedules", q: "/queues", f: "/flow", g: "/groups", k: "/keys" };
let before = "";
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  const key = event.key;
  if (before === "g" && key in places) location.href = `/console${places[key]}`;
  else if (key === "/") { event.preventDefault(); document.getElementById("find")?.focus(); }
  else if (key === "n") location.href = "/console/send";
  else if (key === "p") document.querySelector("[data-pause]")?.click();
  else if (key === "?") document.getElementById("keys-help")?.showModal();
  before = key;
});

showTimes();
setInterval(showTimes, 1000);
setTimeout(live, LIVE_MS);
