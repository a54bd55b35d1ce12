"use strict";
// The browser keeps each label until the server confirms that it is on disk. Every request may be repeated: a label and
// its undo carry the label's id. All addresses are relative, because a proxy may serve the page under a path.

const RENEW_MS = 20000; // between two requests that keep the question for this annotator
const HOLD_MS = 600000; // after that the question is offered to others; a late verdict still counts
const POLL_MS = 2000; // between two requests for a new question
const RETRY_MS = 1000; // between two attempts to reach a server that does not answer
const TIMEOUT_MS = 15000; // of one request
const FRESH_MS = 300; // a new question takes no verdict for so long: the key was meant for the previous one
const SEEN_PX = 96; // visible height from which an answer counts as seen, if it is not shorter
const WORDS = { left: "1 is better", right: "2 is better", tie: "About the same", bad: "Both are bad", skip: "Skipped" };
const OUTBOX = "rlhf-flow.outbox.";

const $ = (id) => document.getElementById(id);
const choices = [...document.querySelectorAll("[data-choice]")];
let shown = null; // the question that can be answered
let editing = null; // the label that is being changed, and its question
let seen = false; // whether answer 2 was visible
let last = null; // the id of the label that can be undone
let since = 0; // when the question appeared
let syncing = null; // the exchange with the server in progress
let timer = 0;
let refused = ""; // the reason for which the server refused a label
let joining = false; // whether the name is being changed
let session = decodeURIComponent(/[#&]session=([^&]*)/.exec(location.hash)?.[1] ?? ""); // also in a cookie, if allowed
let token = null; // also in sessionStorage, if allowed

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
  if (response.headers.get("X-Session")) {
    session = response.headers.get("X-Session");
    remember();
  }
  if (response.status >= 500 || response.status === 408) throw new Lost();
  if (response.status === 401) throw new Unauthorised();
  if (response.status === 403) throw new NotTheirs(answer.detail);
  if (!response.ok) throw new Refused(JSON.stringify(answer.detail));
  return answer;
}

function remember() { // without storage, the address keeps the session and the name
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

// -- labels that are not sent yet -------------------------------------------------------------------------------------

const waiting = () => store.keys(OUTBOX);

function keep(path, body) {
  store.set(`${OUTBOX}${Date.now()}.${unique()}`, JSON.stringify({ path, body }));
}

async function deliver() {
  for (const key of waiting()) {
    const item = JSON.parse(store.get(key) ?? "null"); // null: another tab has sent it
    try {
      if (item) await post(item.path.replace(/^\//, ""), item.body);
    } catch (error) {
      const gone = error instanceof NotTheirs && item.body.annotator !== annotator(); // given under an earlier name
      if (!(error instanceof Refused) && !gone) throw error;
      refused = `The server refused a label: ${error.message}`; // and would refuse it again
    }
    store.remove(key);
  }
}

function unique() { // crypto.randomUUID needs https or localhost
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// -- exchange with the server -----------------------------------------------------------------------------------------

function sync() {
  syncing ??= exchange().finally(() => (syncing = null));
  return syncing;
}

async function exchange() {
  clearTimeout(timer);
  if (!annotator() || joining) return show("join");
  try {
    while (waiting().length) await deliver();
    const state = await post("state", { annotator: annotator() });
    if (waiting().length || joining) return later(0); // new labels since: this state is outdated
    warn(refused);
    render(state);
    if (guided === null) await guidance();
    if (!state.question) later(POLL_MS);
    else if (Date.now() < since + HOLD_MS) later(RENEW_MS);
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
    joining = true; // until another name is given
    show("join");
  } else if (error instanceof Lost) {
    const kept = waiting().length ? "Your label is kept here and will be sent" : "The page continues";
    warn(`The server does not answer. ${kept} when it is back.`);
    later(RETRY_MS);
  } else {
    throw error;
  }
}

// -- views ------------------------------------------------------------------------------------------------------------

let named = decodeURIComponent(/[#&]name=([^&]*)/.exec(location.hash)?.[1] ?? "");
const annotator = () => named || store.get("rlhf-flow.annotator");
const say = (text) => ($("status").textContent = text);

function warn(text) {
  if ($("alert").textContent !== text) $("alert").textContent = text;
  $("alert").hidden = !text;
}

function show(view) {
  for (const id of ["join", "ask", "rest"]) $(id).hidden = id !== view;
  for (const id of ["annotator", "counts", "agreement", "past"]) $(id).hidden = view === "join";
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
  $("annotator").textContent = annotator();
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
  $("chat").scrollTop = $("chat").scrollHeight;
  scrollTo(0, 0);
  look();
  setTimeout(look, FRESH_MS + 20);
  say(news);
}

function texts() { // the texts of the question, rendered or raw
  const raw = $("raw").getAttribute("aria-pressed") === "true";
  const { written } = shown;
  $("chat").replaceChildren(...shown.messages.map((one, at) => message(one, raw ? written.messages[at] : null)));
  fill($("left"), shown.left, raw ? written.left : null);
  fill($("right"), shown.right, raw ? written.right : null);
}

function fill(element, html, written) {
  element.classList.toggle("written", written !== null);
  if (written !== null) element.textContent = written;
  else element.innerHTML = html; // HTML that the server made from Markdown, with HTML in it escaped
}

function message({ role, html }, written) {
  const block = document.createElement("div");
  const label = block.appendChild(document.createElement("p"));
  label.className = "role";
  label.textContent = role;
  const text = block.appendChild(document.createElement("div"));
  text.className = "text";
  text.dir = "auto";
  fill(text, html, written);
  return block;
}

function look() { // checks whether answer 2 is visible and not behind the buttons: before that no verdict is taken
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
    ? `The open pairs (${open}) are for other people. Your next pair will appear here.`
    : `${asked ? "All pairs are labelled. " : ""}This page waits for the next round. Its first pair will appear here.`;
  $("again").hidden = !skipped;
  $("again").textContent = `Show skipped pairs again (${skipped})`;
}

// -- guidelines and history -------------------------------------------------------------------------------------------

let guided = null; // the guidelines, once the server has sent them

async function guidance() {
  const { html } = await post("guidelines", { annotator: annotator() });
  guided = html;
  $("guidelines").innerHTML = html; // escaped by the server, as answers are
  if (html && store.get("rlhf-flow.guidelines") !== html) unfold(true); // new to this browser
  guide();
}

function guide() {
  const available = $("guidelines").innerHTML !== "" && document.body.dataset.view !== "join" && $("join").hidden;
  $("guide").hidden = !available;
  $("guidelines").hidden = !available || $("guide").getAttribute("aria-expanded") !== "true";
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
  $("editing").firstElementChild.textContent = `Your label for this pair: “${WORDS[label.choice]}”. Choose again, or`;
  ask(label.question, "A pair that you have already labelled.");
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

// -- actions ----------------------------------------------------------------------------------------------------------

function choose(choice) {
  if (!shown || Date.now() < since + FRESH_MS) return;
  if (choice === "skip" && editing) return;
  look();
  if (!seen && choice !== "skip") {
    say("Scroll to answer 2 first.");
    return $("onward").focus(); // no automatic scrolling: a second key press would label an unread answer
  }
  const label = { id: unique(), question: shown.key, annotator: annotator(), choice, comment: $("comment").value.trim() };
  keep("/label", editing ? { ...label, instead: editing.id } : label);
  shown = editing = null; // a second key press finds no question
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

function grow() { // fits the comment field to its text
  $("comment").style.height = "auto";
  $("comment").style.height = `${$("comment").scrollHeight + 2}px`;
}

for (const button of choices) {
  button.addEventListener("click", (event) => event.detail > 1 || choose(button.dataset.choice)); // not the second click of a double click
}
$("undo").addEventListener("click", (event) => event.detail > 1 || undo());
$("annotator").addEventListener("click", () => {
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
    } catch {} // refused: kept in this page only
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

function pressed({ key, code, shiftKey }) { // the action by the key's character, or by its position on other layouts
  const name = key.toLowerCase();
  if (name in DOES) return name;
  if (/^[a-z]$/.test(name) || shiftKey) return null; // another Latin letter: positions differ between Latin layouts
  return /^(?:Digit|Numpad)([0-9])$/.exec(code)?.[1] ?? (/^[!-~]$/.test(name) ? null : /^Key([A-Z])$/.exec(code)?.[1].toLowerCase());
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target.id === "comment") return event.target.blur();
  const writing = ["INPUT", "TEXTAREA"].includes(event.target.tagName);
  if (event.repeat || event.isComposing || event.ctrlKey || event.metaKey || event.altKey || writing) return;
  if ($("history").open || event.getModifierState?.("AltGraph")) return;
  const name = pressed(event);
  if (!(name in DOES) || (!shown && !["u", "h", "g"].includes(name))) return;
  event.preventDefault(); // "c" must not be typed into the comment
  DOES[name]();
});
for (const event of ["scroll", "resize"]) addEventListener(event, look, { passive: true });
document.addEventListener("visibilitychange", () => document.hidden || sync());
addEventListener("pageshow", (event) => event.persisted && sync());
addEventListener("beforeunload", (event) => store.unsent(OUTBOX) && event.preventDefault()); // only this page has them
sync();
