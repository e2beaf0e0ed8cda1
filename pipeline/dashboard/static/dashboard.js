// Updates the parts of the page marked data-live from the server every two seconds while the page is visible. The
// server sends only the parts that changed. Elements are changed in place, so that focus, open details and images stay.
// Words of times, such as "12 s ago", are updated here.
"use strict";

const EVERY = 2000;
const UNITS = [[90, 1, "s"], [90 * 60, 60, "min"], [36 * 3600, 3600, "h"], [Infinity, 86400, "days"]];
const button = document.querySelector("#pause");
const said = document.querySelector("#said");
let ahead = Date.parse(document.documentElement.dataset.now) - Date.now(); // of the server's clock, in milliseconds
let paused = sessionStorage.getItem("paused") === "yes";
let failures = 0;
let timer = 0;

/** Make `here` like `there`: attributes and children, by place; elements with an id or a data-key, by that. */
function become(here, there) {
  if (here.matches("details[open] > form.confirm")) return; // a number that a visitor confirms must not change
  for (const { name } of [...here.attributes]) {
    if (!there.hasAttribute(name) && name !== "open") here.removeAttribute(name);
  }
  for (const { name, value } of [...there.attributes]) {
    if (name !== "open" && here.getAttribute(name) !== value) here.setAttribute(name, value);
  }
  const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.id || node.dataset.key : undefined);
  const keyed = new Map([...here.children].filter(keyOf).map((child) => [keyOf(child), child]));
  let place = here.firstChild;
  for (const fresh of [...there.childNodes]) {
    const key = keyOf(fresh);
    let old = key ? keyed.get(key) : place;
    if (old && !key && keyOf(old)) old = undefined; // it belongs to another element
    if (old && old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName) {
      if (old === place) place = place.nextSibling;
      else here.insertBefore(old, place);
      if (old.nodeType === Node.ELEMENT_NODE) become(old, fresh);
      else if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    } else {
      here.insertBefore(document.importNode(fresh, true), place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

/** Update a part of the page. The focused element keeps its focus even if its row moves. */
function update(part, newer) {
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  become(part, newer);
  if (focused && focused.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
}

function note(text) {
  if (said.textContent !== text) said.textContent = text;
}

function duration(seconds) {
  const [, size, name] = UNITS.find(([limit]) => seconds < limit);
  return `${Math.round(seconds / size)} ${name}`;
}

/** Update the words of all times, as the filters `ago` and `until` of the server do. */
function tick() {
  for (const each of document.querySelectorAll("time[datetime]")) {
    const seconds = (Date.now() + ahead - Date.parse(each.dateTime)) / 1000;
    const soon = "until" in each.dataset;
    const words = soon
      ? -seconds < 1 ? "now" : `in ${duration(-seconds)}`
      : seconds < 2 ? "just now" : `${duration(seconds)} ago`;
    if (each.textContent !== words) each.textContent = words;
  }
}

async function refresh() {
  const parts = [...document.querySelectorAll("[data-live]")];
  const response = await fetch(location.href, {
    headers: { Accept: "text/html", "X-Live": parts.map((part) => `${part.id}=${part.dataset.version}`).join(" ") },
    credentials: "same-origin",
    signal: AbortSignal.timeout(15000),
  });
  if (response.redirected && new URL(response.url).pathname === "/login") {
    location.assign(`/login?to=${encodeURIComponent(location.pathname + location.search)}`);
    return;
  }
  if (!response.ok) throw new Error(String(response.status));
  const date = Date.parse(response.headers.get("Date"));
  if (Math.abs(date - Date.now() - ahead) > 3000) ahead = date - Date.now(); // the header has whole seconds
  if (response.status === 204) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of parts) {
    const newer = fresh.getElementById(part.id);
    if (newer) update(part, newer);
  }
  const csrf = document.querySelector("[data-csrf]")?.dataset.csrf;
  for (const field of csrf ? document.querySelectorAll("input[name=csrf]") : []) field.value = csrf;
  tick();
}

async function turn() {
  if (!paused && !document.hidden) {
    try {
      await refresh();
      if (failures) note("");
      failures = 0;
    } catch (error) {
      failures += 1;
      if (failures === 2) note("The dashboard does not answer. This page shows its last numbers.");
    }
  }
  schedule(EVERY * Math.min(1 + failures, 8));
}

function schedule(wait) {
  clearTimeout(timer);
  if (!paused && !document.hidden) timer = setTimeout(turn, wait);
}

function show() {
  button.hidden = false;
  button.setAttribute("aria-pressed", String(paused));
  button.querySelector("span").textContent = paused ? "Paused" : "Live";
}

tick();
setInterval(tick, 1000);
if (button && document.querySelector("[data-live]")) {
  button.addEventListener("click", () => {
    paused = !paused;
    sessionStorage.setItem("paused", paused ? "yes" : "no");
    show();
    schedule(0);
  });
  document.addEventListener("visibilitychange", () => schedule(0));
  show();
  schedule(EVERY);
}
