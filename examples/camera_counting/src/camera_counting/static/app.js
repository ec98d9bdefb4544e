"use strict";

const PERIOD = 1000; // milliseconds between two polls
const HISTORY = 60; // polls that a camera's curve goes back
const STALE = 60000; // milliseconds after which a count says nothing about now

const numbers = new Intl.NumberFormat("en");
const cards = new Map(); // camera id -> {element, history}

function byId(id) {
  return document.getElementById(id);
}

function age(time) {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(time)) / 1000));
  if (seconds < 2) return "just now";
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  return `${Math.round(seconds / 3600)} h ago`;
}

function isStale(camera) {
  return camera.last_frame_at === null || Date.now() - Date.parse(camera.last_frame_at) > STALE;
}

function card(id) {
  if (!cards.has(id)) {
    const element = byId("camera").content.firstElementChild.cloneNode(true);
    element.querySelector("h2").textContent = id;
    cards.set(id, { element, history: [] });
  }
  return cards.get(id);
}

function curve(element, history) {
  const top = Math.max(4, ...history);
  const points = history.map((count, index) => {
    const x = 120 - (history.length - 1 - index) * (120 / (HISTORY - 1));
    return `${x.toFixed(1)},${(30 - (28 * count) / top).toFixed(1)}`;
  });
  const left = points[0].split(",")[0];
  element.querySelector("polyline").setAttribute("points", points.join(" "));
  element.querySelector("polygon").setAttribute("points", `${left},32 ${points.join(" ")} 120,32`);
}

function show(camera) {
  const { element, history } = card(camera.id);
  const count = camera.last_count;
  history.push(count ?? 0);
  if (history.length > HISTORY) history.shift();

  element.dataset.stale = isStale(camera);
  element.querySelector(".seen").textContent =
    camera.last_frame_at === null ? "no frames yet" : age(camera.last_frame_at);
  element.querySelector(".count strong").textContent =
    count === null ? "–" : numbers.format(count);
  element.querySelector(".count span").textContent = count === 1 ? "person" : "people";
  element.querySelector(".totals").textContent =
    `${numbers.format(camera.total)} counted in ${numbers.format(camera.frames)} frames`;
  curve(element, history);
  return element;
}

function sum(cameras, key) {
  return numbers.format(cameras.reduce((total, camera) => total + camera[key], 0));
}

function state(name, text) {
  const status = byId("status");
  // Assigning the same text again would make screen readers repeat it every second.
  if (status.dataset.state === name) return;
  status.dataset.state = name;
  status.textContent = text;
}

async function poll() {
  try {
    const response = await fetch("/cameras", { signal: AbortSignal.timeout(5 * PERIOD) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const { cameras } = await response.json();
    byId("now").textContent = sum(cameras.filter((camera) => !isStale(camera)), "last_count");
    byId("total").textContent = sum(cameras, "total");
    byId("frames").textContent = sum(cameras, "frames");
    byId("cameras").replaceChildren(...cameras.map(show));
    byId("empty").hidden = cameras.length > 0;
    state("live", "Live");
  } catch {
    state("lost", "No answer from the service, trying again");
  }
  setTimeout(poll, PERIOD);
}

poll();
