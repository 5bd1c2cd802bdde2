"use strict";

// Criteria, scores and their direction are those by which GeoRSCLIP's authors had RS5M rated.
const CRITERIA = [
  {
    id: "relevance",
    title: "Relevance and detail",
    question: "Does it tell what matters in the image?",
    short: ["unrelated", "misses most", "general idea", "nearly all", "complete"],
    long: [
      "It has little to do with the image, or misses its point.",
      "It leaves out much that is important, or puts it wrongly.",
      "The general idea is right; important details are missing.",
      "It tells most of what matters; small details are missing.",
      "It tells all that matters, in precise detail.",
    ],
  },
  {
    id: "hallucination",
    title: "Hallucination",
    question: "Is all of it there? 5: nothing is invented.",
    short: ["mostly invented", "much invented", "some invented", "trifles invented", "nothing invented"],
    long: [
      "Nearly all of it is invented.",
      "So much is invented that it misleads.",
      "Some of it is plainly invented, but the core is true.",
      "Trifles are invented that hardly change the meaning.",
      "Nothing is invented: all of it can be seen.",
    ],
  },
  {
    id: "fluency",
    title: "Fluency",
    question: "Well written, no longer than it need be?",
    short: ["broken", "hard to read", "clumsy", "small flaws", "flawless"],
    long: [
      "Hard to understand: broken or repeated sentences.",
      "Many mistakes, or so wordy that it is hard to follow.",
      "Some mistakes or needless words, but it can be understood.",
      "It reads well; a little too wordy.",
      "Flawless and concise.",
    ],
  },
];
const QUEUE = "rsclip_jax.rate.unsaved"; // answers the server has not confirmed
const NAME = "rsclip_jax.rate.rater";
const RETRY = 2000; // milliseconds
const PATIENCE = 30_000; // likewise, for an answer of the server

const $ = (id) => document.getElementById(id);
const state = {
  rater: "",
  items: [], // {token, kind, caption, infrared, rating}
  at: 0, // items.length: the end
  criterion: 0,
  scores: {},
  shown: 0, // when the caption was
};

// ---- Saving: an answer stays in the browser until the server has it. ----

let queue = JSON.parse(localStorage.getItem(QUEUE) || "[]");
const refused = new Set(); // of them: what would be refused again
let sending = false;

function keep() {
  localStorage.setItem(QUEUE, JSON.stringify(queue));
}

function save(answer) {
  queue = queue.filter((old) => old.rater !== answer.rater || old.token !== answer.token);
  queue.push(answer);
  keep();
  send();
}

async function send() {
  if (sending) return;
  sending = true;
  try {
    let answer;
    while ((answer = queue.find((one) => !refused.has(one)))) {
      const { status, error } = await post(answer);
      if (status >= 400 && status < 500) {
        refused.add(answer);
        trouble(`An answer was refused, and is kept in this browser: ${error}`);
      } else if (status !== 200) {
        const count = queue.length === 1 ? "1 answer is" : `${queue.length} answers are`;
        trouble(`${error}. ${count} kept in this browser and sent again. You can go on.`);
        setTimeout(send, RETRY);
        return;
      } else {
        queue = queue.filter((one) => one !== answer); // a newer one for the caption stays
        keep();
      }
    }
    if (!queue.length) trouble("");
  } finally {
    sending = false;
    showSaved();
  }
}

async function post(answer) {
  try {
    const response = await fetch("/ratings", {
      method: "POST",
      signal: AbortSignal.timeout(PATIENCE),
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(answer),
    });
    const told = await response.json().catch(() => ({}));
    return { status: response.status, error: told.error || `The server has an error (${response.status})` };
  } catch {
    return { status: 0, error: "The server does not answer" };
  }
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

// ---- Starting ----

async function start(rater) {
  let told;
  try {
    const response = await fetch(`/session?${new URLSearchParams({ rater })}`, {
      signal: AbortSignal.timeout(PATIENCE),
    });
    told = await response.json();
  } catch {
    told = { error: "The server does not answer: is the command still running?" };
  }
  $("name-error").hidden = !told.error;
  $("name-error").textContent = told.error || "";
  if (told.error) return $("name").focus();
  state.rater = told.rater;
  state.items = told.items;
  for (const item of state.items) {
    const unsaved = queue.find((one) => one.rater === state.rater && one.token === item.token);
    if (unsaved) item.rating = unsaved;
  }
  localStorage.setItem(NAME, state.rater);
  const address = new URL(location);
  address.searchParams.set("rater", state.rater);
  history.replaceState(null, "", address);
  $("rater").textContent = state.rater;
  $("progress").hidden = false;
  send();
  go(nextUnrated(0));
}

function nextUnrated(from) {
  const found = state.items.findIndex((item, i) => i >= from && !item.rating);
  return found < 0 ? state.items.length : found;
}

// ---- Showing ----

function show(id) {
  for (const one of ["start", "work", "end"]) $(one).hidden = one !== id;
  // The browser does so in its own time: until then keys would go to what is hidden.
  if (document.activeElement?.closest("[hidden]")) document.activeElement.blur();
}

function go(at) {
  state.at = Math.max(0, Math.min(at, state.items.length));
  state.criterion = 0;
  document.body.classList.remove("zoomed");
  showProgress();
  if (state.at === state.items.length) return showEnd();
  const item = state.items[state.at];
  state.scores = {};
  for (const { id } of CRITERIA) if (item.rating) state.scores[id] = item.rating[id];
  state.shown = performance.now();
  $("kind").textContent = `${item.kind} caption`;
  $("caption").textContent = item.caption;
  $("comment").value = item.rating ? item.rating.comment : "";
  const sides = item.infrared ? ["image", "ir"] : ["image"];
  $("pictures").replaceChildren(...sides.map((side) => picture(item, side, sides.length > 1)));
  const next = state.items[state.at + 1];
  if (next) for (const side of next.infrared ? ["image", "ir"] : ["image"]) new Image().src = source(next, side);
  show("work");
  scrollTo(0, 0);
  showScores();
  showSaved();
  announce(`Caption ${state.at + 1} of ${state.items.length}: ${item.caption}. ${CRITERIA[0].title}?`);
}

function source(item, side) {
  return `/images/${item.token}/${side}`;
}

function picture(item, side, titled) {
  const figure = document.createElement("figure");
  const image = new Image();
  image.alt = side === "ir" ? "infrared image" : "the image that is captioned";
  image.src = source(item, side);
  image.title = "Enlarge (Z)";
  image.addEventListener("click", zoom);
  image.addEventListener("error", async () => {
    const told = await fetch(image.src).then((r) => r.json()).catch(() => ({}));
    const text = document.createElement("p");
    text.textContent = `${told.error || "The image cannot be loaded"}: skip this caption`;
    image.replaceWith(text);
  });
  figure.append(image);
  if (titled) {
    const caption = document.createElement("figcaption");
    caption.textContent = side === "ir" ? "infrared" : "visible light";
    figure.append(caption);
  }
  return figure;
}

function zoom() {
  document.body.classList.toggle("zoomed");
}

function showScores() {
  CRITERIA.forEach(({ id }, i) => {
    const group = $(id);
    group.classList.toggle("active", i === state.criterion);
    for (const button of group.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(Number(button.value) === state.scores[id]));
    }
  });
}

function showSaved() {
  const item = state.items[state.at];
  if (!item) return;
  const waits = queue.some((one) => one.rater === state.rater && one.token === item.token);
  $("saved").textContent = waits ? "not saved yet" : item.rating ? "saved" : "";
}

function showProgress() {
  const rated = state.items.filter((item) => item.rating);
  const left = state.items.length - rated.length;
  $("done").max = state.items.length;
  $("done").value = rated.length;
  const times = rated.map((item) => item.rating.seconds).sort((a, b) => a - b);
  const minutes = Math.ceil((left * (times[times.length >> 1] || 0)) / 60);
  const time = !left || !minutes ? "" : minutes < 90 ? `, ${minutes} min left` : `, ${Math.round(minutes / 60)} h left`;
  $("count").textContent = `${rated.length} of ${state.items.length}${time}`;
}

function showEnd() {
  const left = state.items.filter((item) => !item.rating).length;
  $("end-title").textContent = left ? "Nearly done" : "All rated, thank you";
  const captions = left === 1 ? "1 caption has" : `${left} captions have`;
  $("end-text").textContent = left
    ? `${captions} no scores yet.`
    : `${state.items.length} captions. You can close this page.`;
  $("end-go").hidden = !left;
  $("end-results").hidden = left > 0;
  show("end");
  announce(`${$("end-title").textContent}. ${$("end-text").textContent}`);
}

function announce(text) {
  $("announce").textContent = text;
}

// ---- Rating ----

function score(criterion, value) {
  const { id } = CRITERIA[criterion];
  state.scores[id] = value;
  state.criterion = criterion;
  const last = criterion === CRITERIA.length - 1;
  const complete = store();
  if (last && complete) return go(nextUnrated(state.at + 1));
  const missing = CRITERIA.findIndex((one) => !(one.id in state.scores));
  state.criterion = last ? missing : criterion + 1;
  showScores();
  announce(`${value}. ${CRITERIA[state.criterion].title}?`);
}

// Save if nothing is missing; return whether that is so.
function store() {
  const item = state.items[state.at];
  if (!CRITERIA.every(({ id }) => id in state.scores)) return false;
  const seconds = Math.round((performance.now() - state.shown) / 100) / 10;
  const comment = $("comment").value.trim();
  item.rating = { rater: state.rater, token: item.token, ...state.scores, comment, seconds };
  save(item.rating);
  showProgress();
  showSaved();
  return true;
}

function back() {
  if (state.at < state.items.length && state.criterion > 0) {
    state.criterion -= 1;
    showScores();
  } else if (state.at > 0) {
    go(state.at - 1);
  }
}

function move(step) {
  const count = CRITERIA.length;
  state.criterion = (state.criterion + step + count) % count;
  showScores();
  announce(CRITERIA[state.criterion].title);
}

const skip = () => go(state.at + 1);
const rateLeft = () => go(nextUnrated(0));
const help = () => $("help").showModal();

// ---- Keys and buttons ----

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const { key, target } = event;
  if ($("help").open) {
    if (key === "?") $("help").close();
    return;
  }
  if (target.matches("input, textarea")) {
    if (target === $("comment") && (key === "Escape" || (key === "Enter" && !event.shiftKey))) {
      event.preventDefault();
      target.blur();
    }
    return;
  }
  const pressing = target.matches("button, a") && (key === " " || key === "Enter");
  if (pressing) return; // what has the focus is meant
  const working = !$("work").hidden;
  const ended = !$("end").hidden;
  let act = null;
  if (key === "?") act = help;
  else if (key === "ArrowLeft" || key === "Backspace") act = working || ended ? back : null;
  else if (ended && key === "Enter" && !$("end-go").hidden) act = rateLeft;
  else if (working && /^[1-5]$/.test(key)) act = () => score(state.criterion, Number(key));
  else if (working && (key === "ArrowRight" || key === " ")) act = skip;
  else if (working && key === "ArrowUp") act = () => move(-1);
  else if (working && key === "ArrowDown") act = () => move(1);
  else if (working && key.toLowerCase() === "c") act = () => $("comment").focus();
  else if (working && key.toLowerCase() === "z") act = zoom;
  else if (key === "Escape") act = () => document.body.classList.remove("zoomed");
  if (!act) return;
  event.preventDefault();
  if (!event.repeat) act(); // a key held down is one answer
});

function onClick(id, act) {
  $(id).addEventListener("click", (event) => {
    act();
    if (event.detail) event.currentTarget?.blur(); // by mouse: keys mean the caption again
  });
}

function build() {
  for (const [i, { id, title, question, short, long }] of CRITERIA.entries()) {
    const group = document.createElement("section");
    group.id = id;
    group.setAttribute("role", "group");
    group.setAttribute("aria-labelledby", `${id}-title`);
    group.innerHTML = `<h2 id="${id}-title">${title}</h2><p>${question}</p><div class="scores"></div>`;
    for (let value = 1; value <= 5; value++) {
      const button = document.createElement("button");
      button.type = "button";
      button.value = value;
      button.title = long[value - 1];
      button.innerHTML = `<b>${value}</b> <span>${short[value - 1]}</span>`;
      button.addEventListener("click", (event) => {
        score(i, value);
        if (event.detail) button.blur();
      });
      group.lastChild.append(button);
    }
    $("criteria").append(group);
    const list = [...long].reverse().map((text, n) => `<li value="${5 - n}">${text}</li>`);
    $("meanings").insertAdjacentHTML("beforeend", `<h3>${title}</h3><p>${question}</p><ol reversed>${list.join("")}</ol>`);
  }
  onClick("back", back);
  onClick("skip", skip);
  onClick("end-back", back);
  onClick("end-go", rateLeft);
  onClick("show-help", help);
  $("comment").addEventListener("change", () => store());
  $("name-form").addEventListener("submit", (event) => {
    event.preventDefault();
    start($("name").value);
  });
  const given = new URLSearchParams(location.search).get("rater");
  $("name").value = given || localStorage.getItem(NAME) || "";
  if (given) start(given);
  else $("name").focus(); // the attribute autofocus comes later, when keys may be lost
}

build();
