// Draws props.value (see results.view and page.Page) and lets the mouse and the slider play with it. Nothing here asks
// the server for anything: the slider and the switches only hide what is already drawn. Text from the server is
// only ever set as textContent.
const SVG = "http://www.w3.org/2000/svg";
const thresholds = {};  // what the user chose last, for each of the two kinds of results

const make = (parent, name, attributes = {}, text = "") => {
  const node = parent instanceof SVGElement || name === "svg"
    ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  parent.append(node);
  return node;
};

const draw = () => {
  const value = props.value;
  const find = (selector) => element.querySelector(selector);
  find(".empty").hidden = Boolean(value);
  find(".result").hidden = !value;
  if (!value) return;
  const off = new Set();
  const stage = find(".stage"), rows = find(".rows"), slider = find(".score input");
  stage.replaceChildren();
  rows.replaceChildren();

  const svg = make(stage, "svg", {viewBox: `0 0 ${value.width} ${value.height}`});
  stage.style.setProperty("--ratio", value.width / value.height);
  make(svg, "image", {href: value.image, width: value.width, height: value.height});
  const tip = make(stage, "div", {class: "tip", hidden: ""});

  const items = value.instances.map((one, index) => {
    const text = `${one.class} ${one.score.toFixed(2)}`;
    const row = make(rows, "button", {type: "button", style: `--colour: ${one.colour}`});
    make(row, "span", {class: "dot"});
    make(row, "span", {class: "name"}, one.class);
    make(row, "span", {class: "number"}, one.score.toFixed(2));
    return {...one, index, text, row};
  });
  // Large ones first, so that the small ones inside them can be reached.
  for (const item of [...items].sort((a, b) => b.area - a.area)) {
    item.group = make(svg, "g", {style: `--colour: ${item.colour}`, "data-index": item.index});
    make(item.group, "path", {class: "rim", d: item.outline});
    make(item.group, "path", {class: "mask", d: item.outline});
    if (value.labels && item.outline) item.label = label(stage, item, value);
  }

  const shown = () => items.filter((item) => item.score >= Number(slider.value));
  const on = () => shown().filter((item) => !off.has(item.index));
  const update = () => {
    const visible = new Set(shown());
    for (const item of items) {
      for (const node of [item.group, item.row, item.label].filter(Boolean)) {
        node.classList.toggle("hidden", !visible.has(item));
        node.classList.toggle("off", off.has(item.index));
      }
      item.row.setAttribute("aria-pressed", String(!off.has(item.index)));
    }
    const chosen = on();
    find(".score output").textContent = Number(slider.value).toFixed(2);
    find(".count strong").textContent = `${chosen.length} of ${items.length} shown`;
    const all = find(".all");
    all.textContent = chosen.length ? "Hide all" : "Show all";
    all.disabled = !visible.size;
    for (const kind of ["json", "cutouts"]) {
      const link = find("a." + kind);
      link.toggleAttribute("aria-disabled", !chosen.length);
      if (chosen.length) {
        link.href = `api/results/${value.token}/${kind}?keep=${chosen.map((item) => item.index).join(",")}`;
      } else {
        link.removeAttribute("href");
      }
    }
  };
  const hover = (item, inImage = false) => {
    stage.classList.toggle("hovered", Boolean(item));
    for (const other of items) {
      for (const node of [other.group, other.row, other.label].filter(Boolean)) {
        node.classList.toggle("hover", other === item);
      }
    }
    tip.hidden = !inImage;
    if (inImage) tip.textContent = item.text + (off.has(item.index) ? " (off)" : "");
  };
  const flip = (item) => {
    if (!off.delete(item.index)) off.add(item.index);
    tip.hidden = true;
    update();
  };

  for (const item of items) {
    item.group.onpointerenter = () => hover(item, true);
    item.row.onpointerenter = () => hover(item);
    item.group.onpointerleave = item.row.onpointerleave = () => hover(null);
    item.row.onfocus = () => hover(item);
    item.row.onblur = () => hover(null);
    item.group.onclick = item.row.onclick = () => flip(item);
  }
  stage.onpointermove = (event) => {
    const box = stage.getBoundingClientRect();
    const x = event.clientX - box.left;
    tip.style.left = `${x}px`;
    tip.style.top = `${event.clientY - box.top}px`;
    tip.classList.toggle("left", x > box.width / 2);
  };
  slider.oninput = () => {
    thresholds[value.verb] = slider.value;
    update();
  };
  find(".all").onclick = () => {
    const hide = on().length > 0;
    for (const item of shown()) hide ? off.add(item.index) : off.delete(item.index);
    update();
  };
  // The slider's step rounds; what begins as shown must not be lost to that.
  slider.value = thresholds[value.verb] ?? Math.floor(value.score * 100) / 100;
  update();
};

// A label at the highest point of the outline, inside the image.
const label = (stage, item, value) => {
  const numbers = item.outline.match(/[\d.-]+/g).map(Number);
  let top = 1;
  for (let i = 3; i < numbers.length; i += 2) if (numbers[i] < numbers[top]) top = i;
  const x = numbers[top - 1] / value.width, y = numbers[top] / value.height;
  const place = `left: ${100 * x}%; top: ${100 * y}%; --colour: ${item.colour}`;
  const side = (x < 0.1 ? " right" : x > 0.9 ? " left" : "") + (y < 0.06 ? " below" : "");
  return make(stage, "div", {class: "label" + side, style: place}, item.text);
};

watch("value", draw);
draw();
