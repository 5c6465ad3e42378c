// The page of `psync web`: asks for status.json again and again, and shows what it says.
//
// Names of files are anybody's: they become text nodes and nothing else. What did not
// change is left alone, so that a selection, the focus and a scrolled list stay.
"use strict";

const EVERY_MS = 1500;
const HIDDEN_MS = 15000;
const PATIENCE_MS = 10000;
const POINTS = 120;  // of the curve, one an answer
const ILL = ["halted", "disconnected", "unanswered", "failed"];
const ENDED = ["stopped", "failed"];

const cards = new Map();  // by name: the article, and what its curve is made of

function $(id) { return document.getElementById(id); }

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// --- in words ------------------------------------------------------------------------------

function quantity(size) {
  for (const unit of ["B", "kB", "MB", "GB", "TB"]) {
    if (size < 999.5 || unit === "TB") {
      return `${unit === "B" || size >= 99.5 ? Math.round(size) : size.toFixed(1)} ${unit}`;
    }
    size /= 1000;
  }
}

function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

function count(number) { return (number || 0).toLocaleString("en"); }

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

function rate(side) {
  const changes = side.changes_per_s || 0;
  const bytes = side.bytes_per_s || 0;
  if (!changes && !bytes) return "";
  return `${changes.toFixed(changes < 10 ? 1 : 0)}/s · ${quantity(bytes)}/s`;
}

function audit(report, now) {
  if (!report) return "never";
  const verdict = ["equal", "failed", "ALERT", "notice"][report.exit] || "unknown";
  const then = Date.parse(report.time.replace(/([+-]\d\d)(\d\d)$/, "$1:$2"));
  return Number.isNaN(then) ? verdict : `${verdict}, ${span(now - then / 1000)} ago`;
}

function mood(told) {
  if (told.state === "stopped" || told.missed === false && told.state === "failed") return "idle";
  if (ILL.includes(told.state) || told.trouble) return "ill";
  return told.state !== "watching" || told.problems || told.conflicts ? "busy" : "well";
}

// --- a session -----------------------------------------------------------------------------

function show(card, told, now) {
  const at = (selector) => card.node.querySelector(selector);
  card.node.className = `session ${mood(told)}`;
  put(at("h2"), told.name);
  put(at(".state"), told.state);
  put(at(".since"), told.state_since ? `since ${span(now - told.state_since)}` : "");
  for (const name of ["left", "right"]) {
    const side = told[name] || {};
    const box = at(`.side.${name}`);
    box.classList.toggle("away", side.connected === false);
    put(box.querySelector(".host"), side.host || "");
    put(box.querySelector(".root"), side.root || "");
    put(box.querySelector(".entries"), side.entries === undefined ? "" :
      `${count(side.entries)} entries, ${quantity(side.bytes || 0)} in`);
    const flow = at(`.flow .to.${name}`);
    flow.classList.toggle("moving", rate(side) !== "");
    put(flow.querySelector(".rate"), rate(side));
  }
  const answers = told.pending !== undefined;
  at(".figures").hidden = !answers;
  if (!answers) at("figure").hidden = true;
  if (answers) {
    const figures = {
      lag: told.lag_s ? `${told.lag_s.toFixed(1)} s` : "none",
      pending: count(told.pending),
      in_flight: count(told.in_flight),
      problems: count(told.problems),
      conflicts: count(told.conflicts),
      last_change: told.last_change ? `${span(now - told.last_change)} ago` : "none yet",
      audit: audit(told.audit, now),
    };
    for (const [key, text] of Object.entries(figures)) put(at(`[data-of=${key}]`), text);
    at("[data-of=problems]").parentNode.className = told.problems ? "ill" : "";
    at("[data-of=conflicts]").parentNode.className = told.conflicts ? "busy" : "";
    draw(card, told, now);
  }
  list(at(".wrong"), card, "wrong", wrongs(told), wrong);
  list(at(".changes"), card, "changes", told.changes || [], change);
}

function list(section, card, key, items, render) {
  const text = JSON.stringify(items);
  if (card[key] === text) return;
  card[key] = text;
  section.hidden = items.length === 0;
  section.querySelector("ul, ol").replaceChildren(...items.map(render));
}

function wrongs(told) {
  const found = [];
  if (told.state === "failed") {
    const how = told.exit ? `with status ${told.exit}` : "without a word: it was killed, or the host was";
    found.push({ ill: true, what: `It ended ${how}`, more: `psync log ${told.name}` });
  }
  if (told.halted) found.push({ ill: true, what: told.halted, more: "psync resume" });
  if (told.trouble) found.push({ ill: true, what: told.trouble });
  for (const name of ["left", "right"]) {
    const side = told[name] || {};
    if (side.connected === false && !ENDED.includes(told.state)) {
      found.push({ ill: true, what: `${name} is away`, more: side.trouble || "not connected yet" });
    }
  }
  for (const each of told.problem_list || []) {
    found.push({ path: each.path, more: `problem, ${each.side}: ${each.message}` });
  }
  for (const path of told.conflict_list || []) {
    found.push({ path, more: "a conflict waits: psync conflicts --take left|right PATH" });
  }
  const kept = (told.conflicts || 0) - (told.conflict_list || []).length;
  if (kept > 0 && (told.conflict_list || []).length < 100) {
    found.push({ what: `${count(kept)} kept of what lost a conflict`, more: "psync conflicts" });
  }
  return found;
}

function wrong(each) {
  const item = make("li", each.ill ? "ill" : "");
  item.append(each.path === undefined ? each.what : make("bdi", "path", each.path));
  if (each.more) item.append(make("span", "", each.more));
  return item;
}

function change(each) {
  const item = make("li");
  const arrow = make("span", each.side, each.side === "right" ? "→" : "←");
  arrow.setAttribute("role", "img");
  arrow.setAttribute("aria-label", `to the ${each.side}`);
  item.append(make("time", "", clock(each.time)), arrow, make("span", "what", each.what),
    make("bdi", "path", each.path));
  return item;
}

// What was applied to each side between two answers, a second.
function draw(card, told, now) {
  const applied = [told.right.applied || 0, told.left.applied || 0];
  const last = card.last;
  card.last = { now, applied, started: told.started };
  if (!last || now <= last.now || last.started !== told.started) return;
  card.points.push(applied.map((n, i) => Math.max(0, n - last.applied[i]) / (now - last.now)));
  if (card.points.length > POINTS) card.points.shift();
  const peak = Math.max(...card.points.flat());
  card.node.querySelector("figure").hidden = !peak;
  if (!peak) return;
  const top = Math.max(1, peak);
  for (const [i, name] of ["right", "left"].entries()) {
    const line = card.points.map((point, x) =>
      `${POINTS - card.points.length + x},${(23 - 22 * point[i] / top).toFixed(2)}`);
    card.node.querySelector(`polyline.${name}`).setAttribute("points", line.join(" "));
  }
  put(card.node.querySelector("figcaption"), `changes a second, ${peak.toFixed(1)} at most`);
}

// --- all of them ---------------------------------------------------------------------------

function showAll(answer) {
  const main = $("sessions");
  put($("host"), answer.host);
  put($("version"), `psync ${answer.version}`);
  put($("clock"), clock(answer.time));
  const names = new Set(answer.sessions.map((told) => told.name));
  for (const [name, card] of cards) {
    if (!names.has(name)) {
      card.node.remove();
      cards.delete(name);
    }
  }
  for (const told of answer.sessions) {
    let card = cards.get(told.name);
    if (!card) {
      const node = $("session").content.firstElementChild.cloneNode(true);
      card = { node, points: [] };
      cards.set(told.name, card);
      main.append(node);
    }
    show(card, told, answer.time);
  }
  const none = main.querySelector(".none");
  if (!names.size && !none) main.append(make("p", "none", "No session is known here yet."));
  if (names.size && none) none.remove();
  const attention = answer.sessions.filter((told) => mood(told) === "ill" || told.problems || told.conflicts);
  const health = $("health");
  health.className = `pill ${answer.healthy ? (attention.length ? "busy" : "well") : "ill"}`;
  put(health, attention.length ? `${attention.length} of ${names.size} need${attention.length === 1 ? "s" : ""} you` :
    answer.healthy ? "all is well" : "nothing runs");
  document.title = `${attention.length ? `(${attention.length}) ` : ""}psync ${answer.host}`;
}

function complain(error) {
  $("banner").hidden = false;
  put($("banner"), `No answer from psync web (${error.message}): what is shown here is from ${$("clock").textContent || "nowhere"}.`);
  $("health").className = "pill";
  put($("health"), "unknown");
}

let timer = 0;
let busy = false;

async function ask() {
  if (busy) return;
  busy = true;
  clearTimeout(timer);
  try {
    const response = await fetch("status.json", { signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!response.ok) throw new Error(await response.text());
    showAll(await response.json());
    $("banner").hidden = true;
  } catch (error) {
    complain(error);
  } finally {
    busy = false;
    timer = setTimeout(ask, document.hidden ? HIDDEN_MS : EVERY_MS);
  }
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
ask();
