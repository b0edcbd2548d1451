"use strict";
/* Marks of a story: shown and hidden by reason, gone through by keys. Nothing here makes markup of text. */

(() => {
  const text = document.getElementById("story-text");
  const said = document.getElementById("mark-said");
  const boxes = [...document.querySelectorAll("#legend input[type=checkbox]")];
  let at = -1;

  /* What lies under several marks looks like the first of those that are shown. */
  function filter() {
    const shown = new Map(boxes.filter((box) => box.checked).map((box) => [box.dataset.number, box.dataset]));
    for (const mark of text.querySelectorAll("[data-marks]")) {
      const numbers = mark.dataset.marks.split(" ").filter((number) => shown.has(number));
      mark.classList.toggle("off", numbers.length === 0);
      if (numbers.length) {
        mark.classList.remove(...[...mark.classList].filter((name) => name.startsWith("mark-")));
        mark.classList.add(`mark-${shown.get(numbers[0]).colour}`);
        mark.classList.toggle("stays", !numbers.some((number) => shown.get(number).cut));
        const note = mark.querySelector("sup");
        if (note) {
          note.textContent = numbers.map((number) => Number(number) + 1).join(",");
        }
      }
    }
  }

  function say(words) {
    if (said) {
      said.textContent = words;
    }
  }

  function step(by) {
    const every = [...text.querySelectorAll("[data-begins]:not(.off)")];
    // Where a rule was asked for, what it counts is what is looked for.
    const counted = every.filter((mark) => mark.classList.contains("mark-5") && mark.dataset.marks);
    const marks = counted.length ? counted : every;
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
    // The last search that was looked at, which search.js remembers.
    let results = null;
    try {
      results = sessionStorage.getItem("crawlmill.results");
    } catch {
      // A browser that keeps nothing goes to an empty search.
    }
    location.assign(results && results.startsWith("?") ? `/${results}` : "/");
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
