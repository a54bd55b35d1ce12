"use strict";
// What was said is kept in this browser until the server has said that it is on disk. Everything that is sent may be
// sent again: a label and its undoing carry the label's own id. All addresses are relative: a proxy may serve the page
// under a path.

const ASKING_MS = 20000; // between two words to the server that the question is still being looked at
const LOOKING_MS = 600000; // after that nobody is: the question is free for others, and a late verdict still counts
const WAITING_MS = 2000; // between two looks for a new question
const LOST_MS = 1000; // between two attempts to reach a server that is not there
const TIMEOUT_MS = 15000; // of one request
const FRESH_MS = 300; // a question that has just appeared takes no verdict: what was pressed was meant for the one before
const SEEN_PX = 96; // of an answer, or all of a shorter one: so much on the screen is seen
const WORDS = { left: "1 is better", right: "2 is better", tie: "About the same", bad: "Both are bad", skip: "Skipped" };
const OUTBOX = "rlhf-flow.outbox.";

const $ = (id) => document.getElementById(id);
const choices = [...document.querySelectorAll("[data-choice]")];
let shown = null; // the question that can be answered
let editing = null; // the label that is being changed, and its question
let seen = false; // whether answer 2 was on the screen
let last = null; // the id of the label that can be undone
let since = 0; // when the question appeared
let run = null; // the round of messages with the server that is under way
let timer = 0;
let refused = ""; // what was said of a label that can never be written
let joining = false; // whether the name is being changed
let session = decodeURIComponent(/[#&]session=([^&]*)/.exec(location.hash)?.[1] ?? ""); // in the cookie too, if there are cookies
let token = null; // in the session's storage too, if there is one

class Lost extends Error {}
class Refused extends Error {}
class Unauthorised extends Error {}
class NotTheirs extends Error {}

async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (secret()) headers.Authorization = `Bearer ${secret()}`;
  if (session) headers["X-Session"] = session;
  let response, answer;
  try {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
    answer = await response.json();
  } catch {
    throw new Lost();
  }
  if (response.headers.get("X-Session")) begun(response.headers.get("X-Session"));
  if (response.status >= 500 || response.status === 408) throw new Lost();
  if (response.status === 401) throw new Unauthorised();
  if (response.status === 403) throw new NotTheirs(answer.detail);
  if (!response.ok) throw new Refused(JSON.stringify(answer.detail));
  return answer;
}

function begun(made) {
  session = made;
  remember();
}

function remember() { // where nothing is kept, the address keeps who this is
  if (store.lasts || !annotator()) return;
  history.replaceState(null, "", `#session=${encodeURIComponent(session)}&name=${encodeURIComponent(annotator())}`);
}

function secret() {
  try {
    return token ?? sessionStorage.getItem("rlhf-flow.token");
  } catch {
    return token;
  }
}

// -- what is not sent yet --------------------------------------------------------------------------------------------

const waiting = () => store.keys(OUTBOX);

function keep(path, body) {
  store.set(`${OUTBOX}${Date.now()}.${unique()}`, JSON.stringify({ path, body }));
}

async function deliver() {
  for (const key of waiting()) {
    const item = JSON.parse(store.get(key) ?? "null"); // null: another tab was faster
    try {
      if (item) await post(item.path.replace(/^\//, ""), item.body);
    } catch (error) {
      const gone = error instanceof NotTheirs && item.body.annotator !== annotator(); // said under an earlier name
      if (!(error instanceof Refused) && !gone) throw error;
      refused = `The server refused a label: ${error.message}`; // and would again
    }
    store.remove(key);
  }
}

function unique() { // crypto.randomUUID is there on https and on this machine alone
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// -- with the server -------------------------------------------------------------------------------------------------

function sync() {
  run ??= round().finally(() => (run = null));
  return run;
}

async function round() {
  clearTimeout(timer);
  if (!annotator() || joining) return show("join");
  try {
    while (waiting().length) await deliver();
    const state = await post("state", { annotator: annotator() });
    if (waiting().length || joining) return later(0); // said meanwhile: this is no news any more
    warn(refused);
    render(state);
    if (guided === null) await guidance();
    if (!state.question) later(WAITING_MS);
    else if (Date.now() < since + LOOKING_MS) later(ASKING_MS);
  } catch (error) {
    failed(error);
  }
}

function later(ms) {
  clearTimeout(timer);
  timer = setTimeout(sync, ms);
}

function failed(error) {
  if (error instanceof Unauthorised) {
    warn(secret() ? "The token is wrong." : "");
    $("secret").hidden = false;
    $("token").required = true;
    show("join");
  } else if (error instanceof Refused || error instanceof NotTheirs) {
    warn(error.message);
    joining = true; // until there is another name
    show("join");
  } else if (error instanceof Lost) {
    const kept = waiting().length ? "Your label is kept here, and is sent" : "The page goes on";
    warn(`The server does not answer. ${kept} when it is back.`);
    later(LOST_MS);
  } else {
    throw error;
  }
}

// -- what is seen ----------------------------------------------------------------------------------------------------

let named = decodeURIComponent(/[#&]name=([^&]*)/.exec(location.hash)?.[1] ?? "");
const annotator = () => named || store.get("rlhf-flow.annotator");
const say = (text) => ($("status").textContent = text);

function warn(text) {
  if ($("alert").textContent !== text) $("alert").textContent = text;
  $("alert").hidden = !text;
}

function show(view) {
  for (const id of ["join", "ask", "rest"]) $(id).hidden = id !== view;
  for (const id of ["policy", "counts", "agreement", "past"]) $(id).hidden = view === "join";
  $("undo").hidden = view === "join" || !last || editing !== null;
  $("skip").hidden = view !== "ask" || editing !== null;
  $("raw").hidden = view !== "ask";
  if (view !== "ask") shown = null;
  guide();
  if (document.body.dataset.view === view) return;
  document.body.dataset.view = view;
  if (view === "join") {
    $("name").value = annotator() ?? "";
    (annotator() && !$("secret").hidden ? $("token") : $("name")).focus();
  }
}

function render({ run, question, progress, agreement, last: label }) {
  last = label;
  const done = progress.asked - progress.open;
  $("run").textContent = run;
  $("policy").textContent = annotator();
  $("counts").textContent = `${progress.mine} by you · ${done} of ${progress.asked} done · ${progress.open} open`;
  $("bar").style.width = `${progress.asked ? (100 * done) / progress.asked : 0}%`;
  $("agreement").textContent = agreement ? agreed(agreement) : "";
  if (editing) return;
  if (question) ask(question, `A new pair of answers. ${progress.open} open.`);
  else rest(progress);
}

function agreed({ share, pairs, alpha }) {
  const of = pairs === 1 ? "1 pair" : `${pairs} pairs`;
  const corrected = alpha === null ? "" : `, Krippendorff’s α ${alpha.toFixed(2)}`;
  return `Agreement ${Math.round(100 * share)} % on ${of} that several people labelled${corrected}`;
}

function ask(question, news) {
  show("ask");
  if (question.key === shown?.key) return;
  shown = question;
  since = Date.now();
  seen = false;
  $("comment").value = editing?.comment ?? "";
  grow();
  texts();
  delete document.body.dataset.chosen;
  for (const button of choices) {
    button.setAttribute("aria-pressed", String(editing?.choice === button.dataset.choice));
    if (!editing) button.removeAttribute("aria-pressed");
    button.setAttribute("aria-disabled", "true");
  }
  $("talk").scrollTop = $("talk").scrollHeight;
  scrollTo(0, 0);
  look();
  setTimeout(look, FRESH_MS + 20);
  say(news);
}

function texts() { // of the question that is shown, as Markdown or as they were written
  const raw = $("raw").getAttribute("aria-pressed") === "true";
  const { written } = shown;
  $("talk").replaceChildren(...shown.messages.map((one, at) => message(one, raw ? written.messages[at] : null)));
  fill($("left"), shown.left, raw ? written.left : null);
  fill($("right"), shown.right, raw ? written.right : null);
}

function fill(element, html, written) {
  element.classList.toggle("written", written !== null);
  if (written !== null) element.textContent = written;
  else element.innerHTML = html; // HTML that the server made of Markdown, with every tag in it escaped
}

function message({ role, html }, written) {
  const block = document.createElement("div");
  const who = block.appendChild(document.createElement("p"));
  who.className = "role";
  who.textContent = role;
  const text = block.appendChild(document.createElement("div"));
  text.className = "text";
  text.dir = "auto";
  fill(text, html, written);
  return block;
}

function look() { // whether answer 2 is on the screen, and not behind the buttons: without it there is no verdict
  if (!shown) return;
  const card = $("right").getBoundingClientRect();
  const bottom = document.querySelector("nav").getBoundingClientRect().top;
  const visible = Math.min(card.bottom, bottom, innerHeight) - Math.max(card.top, 0);
  seen ||= visible >= Math.min(card.height, SEEN_PX) && visible > 0;
  $("onward").hidden = seen;
  document.body.dataset.seen = seen;
  if (Date.now() < since + FRESH_MS) return;
  for (const button of choices) {
    if (seen || button.dataset.choice === "skip") button.removeAttribute("aria-disabled");
  }
}

function rest({ asked, open, skipped }) {
  show("rest");
  $("rest-title").textContent = "Nothing to label now";
  $("rest-why").textContent = open
    ? `What is still open (${open}) is for other people. This page shows your next pair by itself.`
    : `${asked ? "All pairs are labelled. " : ""}This page waits for the next round, and shows its first pair by itself.`;
  $("again").hidden = !skipped;
  $("again").textContent = `Show me again what I skipped (${skipped})`;
}

// -- guidelines, and what was said before ------------------------------------------------------------------------------

let guided = null; // the guidelines, once the server has told them

async function guidance() {
  const { html } = await post("guidelines", { annotator: annotator() });
  guided = html;
  $("guidelines").innerHTML = html; // as of an answer
  if (html && store.get("rlhf-flow.guidelines") !== html) unfold(true); // they are new to this browser
  guide();
}

function guide() {
  const told = $("guidelines").innerHTML !== "" && document.body.dataset.view !== "join" && $("join").hidden;
  $("guide").hidden = !told;
  $("guidelines").hidden = !told || $("guide").getAttribute("aria-expanded") !== "true";
}

function unfold(open) {
  $("guide").setAttribute("aria-expanded", String(open));
  if (!open) store.set("rlhf-flow.guidelines", guided);
  guide();
  look();
}

async function past() {
  try {
    const { labels } = await post("history", { annotator: annotator() });
    $("labels").replaceChildren(...labels.map(entry));
    $("history-note").hidden = !labels.length;
    $("history").showModal();
    $("close").focus();
  } catch (error) {
    failed(error);
  }
}

function entry(label) {
  const item = document.createElement("li");
  const button = item.appendChild(document.createElement("button"));
  button.type = "button";
  for (const [tag, text] of [
    ["b", WORDS[label.choice]],
    ["span", label.question.written.messages.at(-1) ?? ""],
    ["i", label.comment],
    ["time", new Date(1000 * label.at).toLocaleString()],
  ]) {
    button.appendChild(document.createElement(tag)).textContent = text.slice(0, 300);
  }
  button.addEventListener("click", () => change(label));
  return item;
}

function change(label) {
  $("history").close();
  editing = label;
  shown = null;
  $("editing").hidden = false;
  $("editing").firstElementChild.textContent = `You said “${WORDS[label.choice]}” of this pair. Say it anew, or`;
  ask(label.question, "A pair that you have labelled.");
}

function unchanged() {
  editing = shown = null;
  $("editing").hidden = true;
  sync();
}

async function download() {
  try {
    const { lines } = await post("export", { annotator: annotator() });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines], { type: "application/jsonl" }));
    link.download = "preferences.jsonl";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  } catch (error) {
    failed(error);
  }
}

// -- what is done ----------------------------------------------------------------------------------------------------

function choose(choice) {
  if (!shown || Date.now() < since + FRESH_MS) return;
  if (choice === "skip" && editing) return;
  look();
  if (!seen && choice !== "skip") {
    say("Answer 2 comes first.");
    return $("onward").focus(); // it is not scrolled there: a second press would be a verdict on what flew by
  }
  const label = { id: unique(), question: shown.key, annotator: annotator(), choice, comment: $("comment").value.trim() };
  keep("/label", editing ? { ...label, instead: editing.id } : label);
  shown = editing = null; // answered: a second press finds no question
  $("editing").hidden = true;
  $("comment").blur();
  document.body.dataset.chosen = choice;
  for (const button of choices) button.setAttribute("aria-pressed", String(button.dataset.choice === choice));
  sync();
}

function onward() {
  $("right").parentElement.scrollIntoView({ block: "start", behavior: "smooth" });
}

function undo() {
  if (!last || waiting().length || editing) return;
  keep("/undo", { id: last, annotator: annotator() });
  last = shown = null;
  sync();
}

function raw() {
  $("raw").setAttribute("aria-pressed", String($("raw").getAttribute("aria-pressed") !== "true"));
  if (shown) texts();
  look();
}

function grow() { // the field is as high as its text
  $("comment").style.height = "auto";
  $("comment").style.height = `${$("comment").scrollHeight + 2}px`;
}

for (const button of choices) {
  button.addEventListener("click", (event) => event.detail > 1 || choose(button.dataset.choice)); // no second of two
}
$("undo").addEventListener("click", (event) => event.detail > 1 || undo());
$("policy").addEventListener("click", () => {
  joining = true;
  sync();
});
$("raw").addEventListener("click", raw);
$("guide").addEventListener("click", () => unfold($("guidelines").hidden));
$("past").addEventListener("click", past);
$("close").addEventListener("click", () => $("history").close());
$("download").addEventListener("click", download);
$("back").addEventListener("click", unchanged);
$("onward").addEventListener("click", onward);
$("comment").addEventListener("input", grow);
$("again").addEventListener("click", async () => {
  await post("reconsider", { annotator: annotator() }).catch(failed);
  sync();
});
$("join").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("name").value.trim().replace(/\s+/g, " ");
  if (!name) return;
  store.set("rlhf-flow.annotator", name);
  named = "";
  remember();
  if ($("token").value) {
    token = $("token").value;
    try {
      sessionStorage.setItem("rlhf-flow.token", token);
    } catch {} // refused: it is kept in this page
  }
  joining = false;
  guided = null;
  sync();
});

const DOES = {
  1: () => choose("left"), 2: () => choose("right"), "=": () => choose("tie"), 0: () => choose("tie"),
  b: () => choose("bad"), s: () => choose("skip"), u: undo, r: raw, h: past,
  g: () => $("guide").hidden || unfold($("guidelines").hidden),
  c: () => $("comment").focus(),
};

function pressed({ key, code, shiftKey }) { // the key by what is on it; by its place if that is no letter of ours
  const name = key.toLowerCase();
  if (name in DOES) return name;
  if (/^[a-z]$/.test(name) || shiftKey) return null; // another letter: the places of letters differ between layouts
  return /^(?:Digit|Numpad)([0-9])$/.exec(code)?.[1] ?? (/^[!-~]$/.test(name) ? null : /^Key([A-Z])$/.exec(code)?.[1].toLowerCase());
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target.id === "comment") return event.target.blur();
  const writing = ["INPUT", "TEXTAREA"].includes(event.target.tagName);
  if (event.repeat || event.isComposing || event.ctrlKey || event.metaKey || event.altKey || writing) return;
  if ($("history").open || event.getModifierState?.("AltGraph")) return;
  const name = pressed(event);
  if (!(name in DOES) || (!shown && !["u", "h", "g"].includes(name))) return;
  event.preventDefault(); // the comment's field takes no c
  DOES[name]();
});
for (const event of ["scroll", "resize"]) addEventListener(event, look, { passive: true });
document.addEventListener("visibilitychange", () => document.hidden || sync());
addEventListener("pageshow", (event) => event.persisted && sync());
addEventListener("beforeunload", (event) => store.unsent(OUTBOX) && event.preventDefault()); // kept in this page alone
sync();
