"use strict";
/* Marks of a story: shown and hidden by reason, gone through by keys. Nothing here makes markup of text. */

(() => {
  const text = document.getElementById("story-text");
  const said = document.getElementById("mark-said");
  const boxes = [...document.querySelectorAll("#legend input[type=checkbox]")];
  let at = -1;

  function filter() {
    const off = new Set(boxes.filter((box) => !box.checked).map((box) => box.dataset.number));
    for (const mark of text.querySelectorAll("[data-marks]")) {
      mark.classList.toggle("off", mark.dataset.marks.split(" ").every((number) => off.has(number)));
    }
  }

  function say(words) {
    if (said) {
      said.textContent = words;
    }
  }

  function step(by) {
    const marks = [...text.querySelectorAll("[data-begins]:not(.off)")];
    if (!marks.length || text.classList.contains("marks-off")) {
      say("There is no mark to go to.");
      return;
    }
    for (const mark of text.querySelectorAll(".current")) {
      mark.classList.remove("current");
    }
    at = by > 0 ? (at + 1) % marks.length : (Math.max(at, 0) - 1 + marks.length) % marks.length;
    const mark = marks[Math.min(at, marks.length - 1)];
    mark.classList.add("current");
    mark.scrollIntoView({ block: "center" });
    say(`Mark ${at + 1} of ${marks.length}: ${mark.title}`);
  }

  function back() {
    const story = document.getElementById("back-to-story");
    if (story) {
      location.assign(story.getAttribute("href"));
      return;
    }
    // The last search before this page, with its place in it, where the browser can tell.
    const entries = window.navigation ? window.navigation.entries().slice(0, window.navigation.currentEntry.index) : [];
    const results = entries.findLast((entry) => new URL(entry.url).pathname === "/");
    if (results) {
      window.navigation.traverseTo(results.key);
    } else {
      location.assign("/");
    }
  }

  for (const box of boxes) {
    box.disabled = false;
    box.addEventListener("change", filter);
  }

  const keys = { b: back };
  if (text) {
    keys.n = () => step(1);
    keys.p = () => step(-1);
    keys.h = () => say(text.classList.toggle("marks-off") ? "Marks are hidden." : "Marks are shown.");
    // Browsers keep boxes as they were left.
    filter();
    const first = text.querySelector("mark.mark-5[data-begins]");
    if (first && location.hash === "#text") {
      text.scrollTop = Math.max(0, first.offsetTop - text.clientHeight / 3);
    }
  }

  document.addEventListener("keydown", (event) => {
    const field = event.target.closest("input:not([type=checkbox]), select, textarea, [contenteditable]");
    const open = document.querySelector("dialog[open]");
    if (field || open || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) {
      return;
    }
    event.preventDefault();
    keys[event.key]();
  });
})();
