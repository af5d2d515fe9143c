// Keeps a page current: fetches it again when the job table's version changes, and changes what differs.
"use strict";

const light = () => document.getElementById("live");
const page = () => document.querySelector("main");
let skew = Date.now() - Number(page().dataset.now);
let wanted = page().dataset.version;
let fetching = false;
let feed = null;

function say(text) {
  light().textContent = text;
  light().dataset.state = text;
}

// Makes `old` equal to `fresh`, keeping every node that is in both: images stay loaded, open details stay open.
function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes])
    if (!fresh.hasAttribute(name) && !(old.nodeName === "DETAILS" && name === "open")) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);

  const keyOf = (node) => node?.dataset?.key;
  const keyed = new Map([...old.children].filter(keyOf).map((child) => [keyOf(child), child]));
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const known = keyed.get(keyOf(child));
    if (known) {
      if (known === at) at = at.nextSibling;
      else old.insertBefore(known, at);
      morph(known, child);
    } else if (at && !keyOf(child) && !keyOf(at)) {
      const next = at.nextSibling;
      morph(at, child);
      at = next;
    } else {
      old.insertBefore(child, at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

async function refresh() {
  if (fetching) return;
  fetching = true;
  try {
    while (page().dataset.version !== wanted) {
      const target = wanted;
      const reply = await fetch(location.href);
      const fresh = new DOMParser().parseFromString(await reply.text(), "text/html");
      const state = light().dataset.state;
      morph(document.querySelector("header"), fresh.querySelector("header"));
      morph(page(), fresh.querySelector("main"));
      say(state);
      skew = Date.now() - Number(page().dataset.now);
      if (page().dataset.version === target || target === wanted) break;
    }
  } catch {
    say("offline");
  } finally {
    fetching = false;
  }
}

function listen() {
  feed?.close();
  feed = null;
  if (document.hidden) return say("paused");
  feed = new EventSource("/events");
  feed.onopen = () => say("live");
  feed.onerror = () => {
    say("offline");
    if (feed?.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  };
  feed.addEventListener("version", (event) => {
    wanted = event.data;
    refresh();
  });
}

function span(seconds) {
  const pair = (n, unit, m, small) => (m ? `${n} ${unit} ${m} ${small}` : `${n} ${unit}`);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return pair(Math.floor(seconds / 60), "min", seconds % 60, "s");
  if (seconds < 86400) return pair(Math.floor(seconds / 3600), "h", Math.floor(seconds / 60) % 60, "min");
  return pair(Math.floor(seconds / 86400), "d", Math.floor(seconds / 3600) % 24, "h");
}

function tick() {
  const now = Date.now() - skew;
  for (const time of document.querySelectorAll("time[data-at]")) {
    const text = `${span(Math.max(0, Math.floor((now - Number(time.dataset.at)) / 1000)))} ago`;
    if (time.textContent !== text) time.textContent = text;
  }
}

document.addEventListener("visibilitychange", listen);
setInterval(tick, 1000);
listen();
