"use strict";
/* Makes the page of thresholds live. Whatever comes from a page of the crawl is put in as text, never as markup. */
(() => {
  const form = document.getElementById("dials");
  if (!form) return;
  document.documentElement.classList.add("scripted");

  const all = (selector, inside = document) => Array.from(inside.querySelectorAll(selector));
  const place = (steps, value) => {
    const numbers = steps.map(Number);
    if (value <= numbers[0]) return 0;
    for (let i = 1; i < numbers.length; i += 1) {
      if (value <= numbers[i]) return i - 1 + (value - numbers[i - 1]) / (numbers[i] - numbers[i - 1]);
    }
    return numbers.length - 1;
  };

  const bounds = all(".bound", form).map((element) => {
    const dial = element.closest(".dial");
    const of = (kind) => all(kind, dial).find((one) => one.dataset.for === element.dataset.key);
    return {
      element,
      key: element.dataset.key,
      start: element.dataset.default,
      side: element.dataset.side,
      steps: element.dataset.steps.split(" "),
      range: element.querySelector("input[type=range]"),
      number: element.querySelector("input[type=number]"),
      off: element.querySelector("input[type=checkbox]"),
      reset: element.querySelector(".reset"),
      line: of("line.now"),
      beyond: of("rect.beyond"),
    };
  });
  const cells = new Map();
  for (const element of all("[data-cell]")) {
    const name = element.dataset.cell;
    cells.set(name, [...(cells.get(name) || []), element]);
  }
  const kept = new Map(all(".dial").map((dial) => [dial.dataset.dial, dial.querySelector("path.kept")]));
  const byId = (id) => document.getElementById(id);
  const state = document.querySelector("#recipe input[name=state]");

  /* What the fields say, as the query of an address: only what is not as in the recipe. */
  const query = () => {
    const fields = new URLSearchParams();
    for (const bound of bounds) {
      if (bound.off && bound.off.checked) fields.set(bound.key, "off");
      else if (bound.number.value !== "" && Number(bound.number.value) !== Number(bound.start)) {
        fields.set(bound.key, bound.number.value);
      }
    }
    return fields.toString();
  };

  const draw = (bound) => {
    const isOff = Boolean(bound.off && bound.off.checked);
    const isMoved = isOff || Number(bound.number.value) !== Number(bound.start);
    const at = place(bound.steps, Number(bound.number.value || bound.start));
    const last = bound.steps.length - 1;
    bound.line.setAttribute("x1", String(at));
    bound.line.setAttribute("x2", String(at));
    bound.beyond.setAttribute("x", bound.side === "minimum" ? "0" : String(at));
    bound.beyond.setAttribute("width", String(bound.side === "minimum" ? at : last - at));
    for (const part of [bound.line, bound.beyond]) part.setAttribute("visibility", isOff ? "hidden" : "visible");
    bound.range.setAttribute("aria-valuetext", isOff ? "off" : bound.number.value);
    bound.element.classList.toggle("is-moved", isMoved);
    bound.element.classList.toggle("is-off", isOff);
    bound.reset.hidden = !isMoved;
  };
  const follow = (bound) => {
    bound.range.value = String(Math.round(place(bound.steps, Number(bound.number.value || bound.start))));
    draw(bound);
  };

  const show = (answer) => {
    for (const [name, text] of Object.entries(answer.cells)) {
      for (const element of cells.get(name) || []) if (element.textContent !== text) element.textContent = text;
    }
    for (const [name, outline] of Object.entries(answer.paths)) {
      if (kept.has(name)) kept.get(name).setAttribute("d", outline);
    }
    for (const row of all("#reasons tbody tr:not(.total)")) {
      row.hidden = all("[data-cell]", row).slice(0, 2).every((one) => one.textContent === "0");
    }
    byId("problems").hidden = answer.problems.length === 0;
    byId("problems").replaceChildren(...answer.problems.map((text) => made("p", text)));
    byId("unmoved").hidden = answer.moved.length > 0;
    byId("moved").hidden = answer.moved.length === 0;
    byId("moved").replaceChildren(...answer.moved.map(move));
    byId("no-examples").hidden = answer.examples.length > 0;
    byId("some-examples").hidden = answer.examples.length === 0;
    byId("examples").replaceChildren(...answer.examples.map(example));
    say(answer.summary);
  };
  const made = (name, text) => {
    const element = document.createElement(name);
    element.textContent = text;
    return element;
  };
  const linked = (text, address) => {
    const link = made("a", text);
    link.setAttribute("href", address);
    return link;
  };
  const move = (one) => {
    const item = document.createElement("li");
    item.append(linked(one.text, `#bound-${encodeURIComponent(one.key)}`));
    return item;
  };
  const example = (one) => {
    const item = document.createElement("li");
    const tag = made("span", one.way);
    tag.className = one.kind === "lost" ? "tag dropped" : "tag kept";
    const why = made("span", one.why);
    why.className = "why";
    item.append(tag, " ", linked(one.url, `/page/${encodeURIComponent(one.id)}`), " ", why);
    return item;
  };

  /* Whoever listens hears where it came to, not every step of the way. */
  let pause = 0;
  const say = (text) => {
    window.clearTimeout(pause);
    pause = window.setTimeout(() => { byId("summary").textContent = text; }, 500);
  };

  /* One question at a time, at most one a frame: what moved meanwhile is asked next, so the last answer is the one seen. */
  let asking = false;
  let waiting = false;
  const ask = () => {
    state.value = query();
    if (waiting) return;
    waiting = true;
    window.requestAnimationFrame(() => {
      waiting = false;
      if (!asking) fetchAnswer();
    });
  };
  const fetchAnswer = async () => {
    asking = true;
    const asked = query();
    try {
      const response = await fetch(`/thresholds/answer?${asked}`, { credentials: "same-origin" });
      if (!response.ok) throw new Error(`the inspector answered ${response.status}`);
      show(await response.json());
    } catch (error) {
      byId("problems").hidden = false;
      byId("problems").replaceChildren(made("p", `No answer: ${error.message}. Is the inspector still running?`));
    }
    asking = false;
    if (query() !== asked) ask();
  };

  /* A place in the history for each bound that is moved, not for each key that was pressed on the way. */
  let last = { key: "", at: 0 };
  const remember = (key = "") => {
    const asked = query();
    const address = asked ? `/thresholds?${asked}` : "/thresholds";
    if (address === window.location.pathname + window.location.search) return;
    const now = performance.now();
    if (key && key === last.key && now - last.at < 2000) window.history.replaceState(null, "", address);
    else window.history.pushState(null, "", address);
    last = { key, at: now };
  };
  const recall = () => {
    last = { key: "", at: 0 };
    const fields = new URLSearchParams(window.location.search);
    for (const bound of bounds) {
      const value = fields.get(bound.key);
      if (bound.off) bound.off.checked = value === "off";
      bound.number.value = value === null || value === "off" ? bound.start : value;
      follow(bound);
    }
    ask();
  };

  for (const bound of bounds) {
    bound.range.hidden = false;
    follow(bound);
    bound.range.addEventListener("input", () => {
      bound.number.value = bound.steps[Number(bound.range.value)];
      if (bound.off) bound.off.checked = false;
      draw(bound);
      ask();
    });
    bound.number.addEventListener("input", () => {
      if (bound.number.value === "" || !bound.number.validity.valid) return;
      if (bound.off) bound.off.checked = false;
      follow(bound);
      ask();
    });
    bound.number.addEventListener("blur", () => {
      if (bound.number.value === "" || !bound.number.validity.valid) {
        bound.number.value = bound.start;
        follow(bound);
        ask();
      }
    });
    for (const field of [bound.range, bound.number]) field.addEventListener("change", () => remember(bound.key));
    if (bound.off) bound.off.addEventListener("change", () => { draw(bound); ask(); remember(); });
    bound.reset.addEventListener("click", () => {
      if (bound.off) bound.off.checked = false;
      bound.number.value = bound.start;
      follow(bound);
      bound.number.focus();
      ask();
      remember();
    });
  }
  form.addEventListener("submit", (event) => { event.preventDefault(); ask(); remember(); });
  byId("reset-all").addEventListener("click", (event) => {
    event.preventDefault();
    window.history.pushState(null, "", "/thresholds");
    recall();
  });
  window.addEventListener("popstate", recall);

  const name = byId("name");
  const command = byId("command");
  name.addEventListener("input", () => {
    command.textContent = command.dataset.template.replaceAll("NAME", name.value || "NAME");
  });
  if (navigator.clipboard) {
    byId("copy").hidden = false;
    byId("copy").addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(command.textContent);
        byId("copied").textContent = "Copied.";
      } catch (error) {
        byId("copied").textContent = "This browser does not allow it: select the command and copy it.";
      }
    });
  }
})();
