// Looking: drop an image, see what a model finds, filter, download. The slider, the classes and the switches
// only hide what is already drawn; nothing here asks the server again.
import {$, make, toast} from "./dom.js";
import {upload} from "./api.js";

const thresholds = {};  // what the person chose last, for each of the two models
let latest = null, turn = 0;

export const startLook = (page) => {
  const file = $("#file"), drop = $("#drop");
  file.accept = page.suffixes.join(",");
  $("#drop-text").textContent = `or choose one, at most ${page.max_bytes / 1e6} MB`;
  $(`input[name=verb][value=${page.verb}]`).checked = true;
  for (const name of page.examples) {
    const example = make("img", {src: `/examples/${name}`, alt: name.replace(/\.[^.]*$/, ""), loading: "lazy"});
    const click = async () => {
      const answer = await fetch(`/examples/${name}`);
      see(new File([await answer.blob()], name), page);
    };
    $("#examples").append(make("button", {type: "button", on: {click}}, example));
  }
  file.addEventListener("change", () => {
    if (file.files.length) see(file.files[0], page);
    file.value = "";
  });
  for (const name of ["dragenter", "dragover"]) {
    $("#look").addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  $("#look").addEventListener("dragleave", () => drop.classList.remove("over"));
  $("#look").addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const files = event.dataTransfer.files;
    if (files.length > 1) toast("One image at a time: the first is shown");
    if (files.length) see(files[0], page);
  });
  drop.addEventListener("keydown", (event) => { if (["Enter", " "].includes(event.key)) { event.preventDefault(); file.click(); } });
  for (const radio of document.querySelectorAll("input[name=verb]")) {
    radio.addEventListener("change", () => { if (latest) see(latest, page); });
  }
};

const see = async (file, page) => {
  if (file.size > page.max_bytes) { toast(`an image may have ${page.max_bytes / 1e6} MB`, true); return; }
  const verb = $("input[name=verb]:checked").value, mine = ++turn;
  $("#look").classList.add("busy");
  $("#look-empty").textContent = "Looking …";
  try {
    const value = await upload(`/api/look?verb=${verb}&name=${encodeURIComponent(file.name.slice(0, 300))}`, file);
    if (mine !== turn) return;
    latest = file;
    draw(value);
    $("#look-empty").hidden = true;
  } catch (error) {
    toast(error.message, true);
    if (mine === turn) $("#look-empty").textContent = "Drop an image, or click an example.";
  } finally {
    if (mine === turn) $("#look").classList.remove("busy");
  }
};

const draw = (value) => {
  const viewer = $("#viewer"), find = (selector) => $(selector, viewer);
  viewer.hidden = false;
  const off = new Set(), without = new Set();
  const stage = find(".canvas"), rows = find(".rows"), slider = find(".score input"), chips = find(".chips");
  for (const node of [stage, rows, chips]) node.replaceChildren();
  stage.style.setProperty("--ratio", value.width / value.height);
  const svg = make("svg", {viewBox: `0 0 ${value.width} ${value.height}`, role: "img", "aria-label": "The image with what was found"});
  svg.append(make("image", {href: value.image, width: value.width, height: value.height}));
  const tip = make("div", {class: "tip", hidden: ""});
  stage.append(svg, tip);

  const items = value.instances.map((one, index) => {
    const row = make("button", {type: "button", style: {"--colour": one.colour}},
      make("span", {class: "swatch"}), make("span", {class: "name", text: one.class}),
      make("span", {class: "number", text: one.score.toFixed(2)}));
    rows.append(row);
    return {...one, index, row, text: `${one.class} ${one.score.toFixed(2)}`};
  });
  // Large ones first, so that the small ones inside them can be reached.
  for (const item of [...items].sort((a, b) => b.area - a.area)) {
    item.group = make("g", {style: {"--colour": item.colour}, "data-index": item.index},
      make("path", {class: "rim", d: item.outline}), make("path", {class: "mask", d: item.outline}));
    svg.append(item.group);
    if (value.labels && item.outline) stage.append(item.label = tag(item, value));
  }

  const shown = () => items.filter((item) => item.score >= Number(slider.value) && !without.has(item.class));
  const on = () => shown().filter((item) => !off.has(item.index));
  const nodes = (item) => [item.group, item.row, item.label].filter(Boolean);
  const update = () => {
    const visible = new Set(shown());
    for (const item of items) {
      for (const node of nodes(item)) {
        node.classList.toggle("below-score", !visible.has(item));
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
      const link = find(`a.${kind}`);
      link.toggleAttribute("aria-disabled", !chosen.length);
      if (chosen.length) link.href = `/api/results/${value.token}/${kind}?keep=${chosen.map((item) => item.index).join(",")}`;
      else link.removeAttribute("href");
    }
  };
  const hover = (item, inImage = false) => {
    stage.classList.toggle("hovered", Boolean(item));
    for (const other of items) for (const node of nodes(other)) node.classList.toggle("hover", other === item);
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
    item.row.onpointerenter = item.row.onfocus = () => hover(item);
    item.group.onpointerleave = item.row.onpointerleave = item.row.onblur = () => hover(null);
    item.group.onclick = item.row.onclick = () => flip(item);
  }
  stage.onpointermove = (event) => {
    const box = stage.getBoundingClientRect(), x = event.clientX - box.left;
    tip.style.left = `${x}px`;
    tip.style.top = `${event.clientY - box.top}px`;
    tip.classList.toggle("left", x > box.width / 2);
  };

  const counts = new Map();
  for (const item of items) counts.set(item.class, (counts.get(item.class) ?? 0) + 1);
  chips.hidden = counts.size < 2;
  for (const [name, count] of counts) {
    const chip = make("button", {type: "button", "aria-pressed": "true", text: `${name} ${count}`});
    chip.onclick = () => {
      if (!without.delete(name)) without.add(name);
      chip.setAttribute("aria-pressed", String(!without.has(name)));
      update();
    };
    chips.append(chip);
  }
  slider.oninput = () => { thresholds[value.verb] = slider.value; update(); };
  find(".all").onclick = () => {
    const hide = on().length > 0;
    for (const item of shown()) hide ? off.add(item.index) : off.delete(item.index);
    update();
  };
  // The slider's step rounds; what begins as shown must not be lost to that.
  slider.value = thresholds[value.verb] ?? Math.floor(value.score * 100) / 100;
  update();
};

// A tag at the highest point of the outline, inside the image.
const tag = (item, value) => {
  const numbers = item.outline.match(/[\d.-]+/g).map(Number);
  let top = 1;
  for (let i = 3; i < numbers.length; i += 2) if (numbers[i] < numbers[top]) top = i;
  const x = numbers[top - 1] / value.width, y = numbers[top] / value.height;
  const side = (x < 0.1 ? " right" : x > 0.9 ? " left" : "") + (y < 0.06 ? " below" : "");
  return make("div", {class: `tag${side}`, text: item.text, style: {left: `${100 * x}%`, top: `${100 * y}%`, "--colour": item.colour}});
};
