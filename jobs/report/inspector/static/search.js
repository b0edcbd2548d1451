"use strict";
// Keys, for those who like them: everything can be done without. Nothing here reads a page's data but to move the focus.

(() => {
  const dialog = document.getElementById("keys");
  const opens = () => Array.from(document.querySelectorAll(".hits .open"));

  const typing = (target) =>
    target instanceof Element && target.closest("input, select, textarea, button, summary, [contenteditable]") !== null;

  const move = (by) => {
    const all = opens();
    if (all.length === 0) return;
    const at = all.findIndex((link) => link.closest(".hit").contains(document.activeElement));
    const next = at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + by));
    all[next].focus();
    all[next].closest(".hit").scrollIntoView({ block: "nearest" });
  };

  const follow = (selector) => {
    const link = document.querySelector(selector);
    if (link) link.click();
  };

  const actions = {
    "/": () => {
      const field = document.getElementById("f-address");
      if (field) {
        field.focus();
        field.select();
      } else {
        window.location.assign("/#f-address");
      }
    },
    "?": () => dialog.showModal(),
    j: () => move(1),
    k: () => move(-1),
    "[": () => follow(".turn a[rel=prev]"),
    "]": () => follow(".turn a[rel=next]"),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || dialog.open) return;
    const local = ["j", "k", "[", "]"].includes(event.key);
    if (local && opens().length === 0) return;
    // On a button a key is the button's; "/" and "?" are nothing to a button, and are keys there, too.
    const field = event.target instanceof Element && event.target.closest("input:not([type=checkbox]), select, textarea, [contenteditable]");
    if (field || (local && typing(event.target)) || !Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    actions[event.key]();
  });

  // The story of a page leads back here.
  if (location.pathname === "/") {
    try {
      sessionStorage.setItem("crawlmill.results", location.search);
    } catch {
      // A browser that keeps nothing goes back to an empty search.
    }
  }

  // What is not filled in does not have to stand in the address.
  const form = document.querySelector("form.search");
  if (form) {
    form.addEventListener("submit", () => {
      for (const field of form.elements) {
        if (field.name && !field.value) field.disabled = true;
      }
    });
    window.addEventListener("pageshow", () => {
      for (const field of form.elements) field.disabled = false;
    });
  }
  if (window.location.hash === "#f-address") {
    const field = document.getElementById("f-address");
    if (field) field.focus();
  }
})();
