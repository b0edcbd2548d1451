// Of each page: what in it could run, load or send something or lead elsewhere, and all that it says. What comes from data
// may be text, and the value of an attribute that names nothing.
// `own`: addresses that pages may load from and lead to; `pages`: HTML of pages to parse, in place of the one that is open.
({ own, pages }) => {
  const banned = new Set([
    "iframe", "frame", "frameset", "object", "embed", "applet", "base", "portal", "fencedframe", "marquee", "audio",
    "video", "source", "track", "foreignObject", "animate", "animateTransform", "set", "math", "img", "image", "template",
    "slot",
  ]);
  const addresses = new Set([
    "href", "src", "action", "formaction", "data", "poster", "background", "ping", "xlink:href", "cite", "srcset",
    "manifest", "longdesc", "profile", "usemap", "codebase", "classid", "archive", "icon", "dynsrc", "lowsrc",
  ]);
  const acts = new Set(["srcdoc", "style", "autofocus", "contenteditable", "http-equiv"]);

  const wrongAddress = (value, base) => {
    if (value === "" || value.startsWith("#") || value === "data:,") return "";
    let address;
    try {
      address = new URL(value, base);
    } catch {
      return "is no address";
    }
    if (address.pathname.includes("/pwned")) return "is made of data";
    return own.some((start) => address.href.startsWith(start)) ? "" : `leads to ${address.href.slice(0, 80)}`;
  };

  const wrong = (element, base) => {
    const name = element.localName;
    const found = [];
    if (banned.has(name)) found.push("does not belong here");
    if (name === "script" && (!element.hasAttribute("src") || element.textContent.trim())) found.push("holds a script");
    if (name === "style" && element.textContent.includes("pwned")) found.push("holds styles of data");
    for (const { name: key, value } of element.attributes) {
      const ours = key === "http-equiv" && value === "Content-Security-Policy";
      if (key.startsWith("on") || (acts.has(key) && !ours)) found.push(`has ${key}`);
      const problem = addresses.has(key) ? wrongAddress(value, base) : "";
      if (problem) found.push(`${key} ${problem}`);
    }
    return found.map((what) => `<${name}> ${what}: ${element.outerHTML.slice(0, 160)}`);
  };

  const look = (page) => ({
    faults: [...page.querySelectorAll("*")].flatMap((element) => wrong(element, document.baseURI)),
    says: [
      ...[...page.querySelectorAll("input, select, textarea")].map((field) => field.value),
      page.documentElement.textContent,
    ].join("\n"),
  });
  if (pages === undefined) return [look(document)];
  return pages.map((html) => look(new DOMParser().parseFromString(html, "text/html")));
}
