// All keys, and the list of them.
import {$, make} from "./dom.js";

const TEXT = [
  ["Enter", "accept all suggestions shown, next image"], ["N", "next image without labelling this one"],
  ["Page Up|Page Down", "previous and next image of the list"], ["U", "image labelled, or not yet"],
  ["V", "find: click what lights up, or drag a box"], ["[|]|Shift-wheel", "smaller and larger one there"],
  ["Shift-click", "add to the selected object"], ["Alt-click", "take away from it"], ["A", "accept what is lit up"],
  ["1|…|9|0", "class of the selected and of new objects"], ["Del", "delete the object, send the suggestion away"],
  ["B|E", "brush and eraser; [ ] change the size"], ["P", "polygon: draw, drag points, drag a side to add one"],
  ["Alt-click|Backspace", "delete a point of a polygon"], ["Esc", "give up what is being drawn; select nothing"],
  [",|.", "previous and next object"], ["Ctrl-Z|Ctrl-Y", "undo and redo"], ["Space|H", "move the image"],
  ["Wheel|+|−|F", "zoom; whole image"], ["G", "hide the objects, and show them"],
  ["<|>", "lower and raise the slider of suggestions"], ["T", "train"],
  ["Arrows", "move a cross over the image, faster with Shift"], ["S|D", "click at the cross; begin and end a drag"],
];

export const startKeys = (label) => {
  const list = $(".keys");
  for (const [names, text] of TEXT) {
    const kbds = names.split("|").map((name) => make("kbd", {text: name}));
    list.append(make("div", {}, make("span", {}, ...kbds), make("span", {text})));
  }
  const view = label.view;
  const bracket = (by) => {
    if (["brush", "erase"].includes(label.tool)) label.panels.radius(label.radius * (by > 0 ? 1.25 : 0.8));
    else label.other(by);
  };
  const erase = () => {
    if (label.tool === "points" && label.tools.points.back()) return;
    label.remove();
  };
  const enter = () => {
    if (label.tool === "points" && label.tools.points.close()) return;
    label.accept();
  };
  const plain = {
    Enter: enter, n: () => label.next(), PageUp: () => label.step(-1), PageDown: () => label.step(1),
    u: () => label.flipDone(), v: () => label.use("find"), b: () => label.use("brush"), e: () => label.use("erase"),
    p: () => label.use("points"), h: () => label.use("pan"), a: () => label.take(null), "[": () => bracket(-1),
    "]": () => bracket(1), Delete: erase, Backspace: erase, Escape: () => label.escape(), ",": () => label.cycle(-1),
    ".": () => label.cycle(1), f: () => view.fit(), "+": () => view.zoom(1.25), "-": () => view.zoom(0.8),
    "=": () => view.zoom(1.25), "<": () => label.panels.slide(-0.05), ">": () => label.panels.slide(0.05), g: () => label.panels.hide(), t: () => label.panels.train(),
    "?": () => $("#keys").showModal(), s: () => cross(label, "click"), d: () => cross(label, "drag"),
  };
  const arrows = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};

  document.addEventListener("keydown", (event) => {
    if ($("#label").hidden || document.querySelector("dialog[open]")) return;
    const typing = event.target.matches("input:not([type=range]), select, textarea");
    const command = event.ctrlKey || event.metaKey, key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (command && key === "z" && !typing) label.travel(event.shiftKey ? "redo" : "undo");
    else if (command && key === "y" && !typing) label.travel("redo");
    else if (command || typing) return;
    else if (event.target.closest("#stage") && arrows[key]) cross(label, "move", arrows[key], event.shiftKey ? 40 : 8);
    // A button or slider that has the focus keeps its own keys.
    else if (event.target.matches("button") && ["Enter", " "].includes(key)) return;
    else if (event.target.matches("input") && /^(Arrow|Page|Home|End)/.test(key)) return;
    else if (key === " ") { label.holding = true; $("#stage").style.cursor = "grab"; }
    else if (/^\d$/.test(key)) label.panels.digit(Number(key));
    else if (plain[key] && !(event.altKey)) plain[key]();
    else return;
    event.preventDefault();
  });
  // After a click on a button the keys are for the image again.
  $("#label").addEventListener("click", (event) => {
    if (event.detail && event.target.closest("button, [type=range]") && !document.querySelector("dialog[open]")) $("#stage").focus({preventScroll: true});
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " ") { label.holding = false; $("#stage").style.cursor = ""; }
  });
};

/** The pointer of the keyboard. */
const cross = (label, what, way = [0, 0], step = 0) => {
  if (!label.image) return;
  const view = label.view, tool = label.tools[label.tool];
  if (!label.cross) {
    label.cross = label.pointer ?? view.toImage(view.width / 2, view.height / 2);
    label.dragging = false;
  }
  const inside = (v, side) => Math.min(side - 0.5, Math.max(0.5, v));
  label.cross = [
    inside(label.cross[0] + way[0] * step / view.scale, label.image.width),
    inside(label.cross[1] + way[1] * step / view.scale, label.image.height),
  ];
  const at = view.toStage(...label.cross), told = {at, shift: false, alt: false, right: false};
  view.reveal([...label.cross, ...label.cross]);
  if (what === "click") {
    tool.down(label.cross, told);
    tool.up(label.cross, told);
  } else if (what === "drag") {
    label.dragging = !label.dragging;
    if (label.dragging) tool.down(label.cross, told);
    else tool.up(label.cross, told);
    label.say(label.dragging ? "Drag begun: arrows, then D" : "Drag ended");
  } else {
    tool.move(label.cross, told);
  }
  view.draw();
};
