// What in this page could run, load or send something or lead elsewhere, other than what the page's own templates hold.
// `own`: addresses that the page may load from and lead to; `html`: a page that is looked at in place of this one.
({ own, html }) => {
  const page = html === undefined ? document : new DOMParser().parseFromString(html, "text/html");
  const found = [];
  const say = (element, what) => found.push(`<${element.localName}> ${what}: ${element.outerHTML.slice(0, 160)}`);
  const banned = new Set([
    "iframe", "frame", "frameset", "object", "embed", "applet", "base", "portal", "fencedframe", "marquee", "audio",
    "video", "source", "track", "foreignObject", "animate", "animateTransform", "set", "math", "img", "image", "template",
    "slot",
  ]);
  const addresses = new Set([
    "href", "src", "action", "formaction", "data", "poster", "background", "ping", "xlink:href", "cite", "srcset",
    "manifest", "longdesc", "profile", "usemap", "codebase", "classid", "archive", "icon", "dynsrc", "lowsrc",
  ]);
  const inside = (element) => {
    for (const child of element.querySelectorAll("*")) {
      if (child.shadowRoot) inside(child.shadowRoot);
      if (banned.has(child.localName)) say(child, "does not belong here");
      if (child.localName === "script" && (!child.hasAttribute("src") || child.textContent.trim())) {
        say(child, "holds a script");
      }
      if (child.localName === "meta" && /refresh|set-cookie/i.test(child.httpEquiv)) say(child, "leads away");
      if (child.localName === "style" && child.textContent.includes("pwned")) say(child, "holds styles of data");
      for (const { name, value } of child.attributes) {
        if (name.startsWith("on")) say(child, `has ${name}`);
        if (name === "srcdoc" || name === "style" || name === "autofocus" || name === "contenteditable") say(child, `has ${name}`);
        if (!addresses.has(name) || value === "" || value.startsWith("#")) continue;
        if (value === "data:,") continue;
        let address;
        try {
          address = new URL(value, page.baseURI).href;
        } catch {
          say(child, `has a broken ${name}`);
          continue;
        }
        if (new URL(address).pathname.includes("/pwned")) say(child, "leads to data");
        if (!own.some((start) => address.startsWith(start))) say(child, `leads to ${address.slice(0, 80)}`);
      }
    }
  };
  inside(page);
  return found;
}
