// The live pages: ask for the changing part while somebody looks, mark what changed, keep relative times current.
// htmx does the asking and idiomorph the swapping; without this file the pages work and stand still.
"use strict";

(() => {
  const EVERY_MS = 1500;
  const EVERY_MS_MAX = 15000;
  const HIGHLIGHT_MS = 1600;

  let timer = 0;
  let askedAt = 0;
  let tookMs = 0;
  let failures = 0;
  let lastAnswer = new Date();
  let before = new Map();
  let clockSkewMs = 0;

  const live = () => document.getElementById("live");
  const asks = () => live() !== null && live().hasAttribute("hx-get");

  // A slow answer is asked for less often, a failing one ever less.
  function delayMs() {
    // A page whose answer costs more says how often is enough.
    const everyMs = Number(live().dataset.everyMs) || EVERY_MS;
    if (failures > 0) return Math.min(EVERY_MS_MAX, everyMs * 2 ** failures);
    return Math.min(EVERY_MS_MAX, Math.max(everyMs, tookMs * 2));
  }

  function schedule() {
    clearTimeout(timer);
    if (asks() && !document.hidden) timer = setTimeout(ask, delayMs());
  }

  function ask() {
    clearTimeout(timer);
    if (!asks() || document.hidden) return;
    askedAt = performance.now();
    htmx.trigger(live(), "look");
  }

  function cells() {
    const found = new Map();
    for (const row of document.querySelectorAll(".grid tbody tr")) {
      for (const cell of row.cells) {
        if (cell.dataset.v !== undefined) found.set(`${row.id}/${cell.cellIndex}`, cell);
      }
    }
    return found;
  }

  function highlight() {
    for (const [key, cell] of cells()) {
      if (!before.has(key) || before.get(key) === cell.dataset.v) continue;
      cell.classList.add("is-changed");
      setTimeout(() => cell.classList.remove("is-changed"), HIGHLIGHT_MS);
    }
  }

  function ago(seconds) {
    if (seconds < 2) return "now";
    if (seconds < 60) return `${Math.floor(seconds)} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
    return `${Math.floor(seconds / 86400)} d`;
  }

  function tellTimes() {
    const now = Date.now() + clockSkewMs;
    for (const time of document.querySelectorAll("time[data-ago]")) {
      const text = ago(Math.max(0, (now - Date.parse(time.dateTime)) / 1000));
      if (time.textContent !== text) time.textContent = text;
    }
  }

  function readClock() {
    if (live() && live().dataset.now) clockSkewMs = Date.parse(live().dataset.now) - Date.now();
  }

  function tellLost() {
    const notice = document.querySelector(".lost");
    if (!notice) return;
    notice.hidden = failures < 2;
    if (!notice.hidden) notice.querySelector(".lost-since").textContent = lastAnswer.toLocaleTimeString();
  }

  document.addEventListener("htmx:configRequest", (event) => {
    const etag = event.detail.elt.dataset.etag;
    if (etag) event.detail.headers["If-None-Match"] = etag;
  });

  document.addEventListener("htmx:beforeSwap", () => {
    before = new Map([...cells()].map(([key, cell]) => [key, cell.dataset.v]));
  });

  document.addEventListener("htmx:afterSwap", () => {
    readClock();
    tellTimes();
    highlight();
  });

  document.addEventListener("htmx:afterRequest", (event) => {
    tookMs = performance.now() - askedAt;
    const status = event.detail.xhr ? event.detail.xhr.status : 0;
    if (status === 304 || (status >= 200 && status < 300)) {
      failures = 0;
      lastAnswer = new Date();
    } else {
      failures += 1;
    }
    tellLost();
    schedule();
  });

  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : ask()));
  window.addEventListener("pageshow", schedule);

  for (const form of document.querySelectorAll("form[data-submit-on-change]")) {
    form.addEventListener("change", () => form.submit());
  }

  // A menu closes when one clicks elsewhere or presses Escape.
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open], .more details[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const menu of document.querySelectorAll("details.menu[open], .more details[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });

  // What the visitor opened stays open when the part around it is swapped.
  if (window.Idiomorph) {
    Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, element) =>
      !(name === "open" && element.tagName === "DETAILS");
  }

  document.documentElement.classList.add("scripted");
  readClock();
  tellTimes();
  setInterval(() => document.hidden || tellTimes(), 1000);
  schedule();
})();
