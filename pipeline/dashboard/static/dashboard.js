// Updates the parts of the page marked data-live from the server every two seconds while the page is visible.
// Elements are changed in place, so that focus, open details and images stay.
"use strict";

const EVERY = 2000;
const button = document.querySelector("#pause");
const said = document.querySelector("#said");
let paused = sessionStorage.getItem("paused") === "yes";
let failures = 0;
let timer = 0;

/** Make `here` like `there`: attributes and children, by place; elements with an id or a data-key, by that. */
function become(here, there) {
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

function note(text) {
  if (said.textContent !== text) said.textContent = text;
}

async function refresh() {
  const response = await fetch(location.href, {
    headers: { Accept: "text/html", "X-Live": "1" },
    credentials: "same-origin",
    signal: AbortSignal.timeout(15000),
  });
  if (response.redirected && new URL(response.url).pathname === "/login") {
    location.assign("/login");
    return;
  }
  if (!response.ok) throw new Error(String(response.status));
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const newer = fresh.getElementById(part.id);
    if (newer) become(part, newer);
  }
  for (const field of document.querySelectorAll("input[name=csrf]")) {
    const newer = fresh.querySelector("input[name=csrf]");
    if (newer) field.value = newer.value;
  }
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
