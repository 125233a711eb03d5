// Small helpers of all modules. Text from the server is only ever set as textContent.
export const $ = (selector, root = document) => root.querySelector(selector);

const SVG = "http://www.w3.org/2000/svg";

/** A new element. `style` holds custom properties: the page's policy forbids style attributes. */
export const make = (name, {text, style, on, ...attributes} = {}, ...children) => {
  const svg = ["svg", "g", "path", "image", "use"].includes(name);
  const node = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== undefined) node.setAttribute(key, value);
  for (const [key, value] of Object.entries(style ?? {})) node.style.setProperty(key, value);
  for (const [key, value] of Object.entries(on ?? {})) node.addEventListener(key, value);
  if (text !== undefined) node.textContent = text;
  node.append(...children);
  return node;
};

export const icon = (name) => make("svg", {"aria-hidden": "true"}, make("use", {href: `#i-${name}`}));

/** Tell screen readers; what everybody should see is a toast. */
export const announce = (text) => { $("#announcer").textContent = text; };

export const toast = (text, wrong = false) => {
  const node = make("div", {class: wrong ? "toast wrong" : "toast", role: wrong ? "alert" : "status", text});
  $("#toasts").append(node);
  setTimeout(() => node.remove(), wrong ? 7000 : 2500);
};

export const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

/** 1:02:03 or 2:03. */
export const duration = (seconds) => {
  const whole = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
};
