// Mouse, pen, touch and wheel on the stage. Touch looks: one finger moves the image, two zoom, a tap selects.
import {$} from "./dom.js";

export const startPointer = (label) => {
  const stage = $("#stage"), view = label.view;
  const fingers = new Map();
  let moving = null, pressed = false;

  const at = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const told = (event, place) => ({at: place, shift: event.shiftKey, alt: event.altKey, right: event.button === 2});

  stage.addEventListener("pointerdown", (event) => {
    if (!label.image) return;
    stage.focus({preventScroll: true});
    label.cross = null;
    const place = at(event);
    stage.setPointerCapture(event.pointerId);
    if (event.pointerType === "touch") {
      fingers.set(event.pointerId, {place, start: place});
      return;
    }
    if (event.button === 1 || label.tool === "pan" || label.holding) {
      moving = place;
      stage.style.cursor = "grabbing";
      return;
    }
    pressed = true;
    label.tools[label.tool].down(view.toImage(...place), told(event, place));
  });

  stage.addEventListener("pointermove", (event) => {
    if (!label.image) return;
    const place = at(event);
    if (event.pointerType === "touch") {
      touch(event, place);
    } else if (moving) {
      view.pan(place[0] - moving[0], place[1] - moving[1]);
      moving = place;
    } else {
      label.tools[label.tool].move(view.toImage(...place), told(event, place));
    }
  });

  const touch = (event, place) => {
    const finger = fingers.get(event.pointerId);
    if (!finger) return;
    const others = [...fingers.values()].filter((one) => one !== finger);
    if (others.length) {
      const other = others[0].place, before = finger.place;
      const spread = (p) => Math.max(10, Math.hypot(p[0] - other[0], p[1] - other[1]));
      view.zoom(spread(place) / spread(before), (place[0] + other[0]) / 2, (place[1] + other[1]) / 2);
      view.pan((place[0] - before[0]) / 2, (place[1] - before[1]) / 2);
      finger.moved = others[0].moved = true;
    } else {
      if (Math.hypot(place[0] - finger.start[0], place[1] - finger.start[1]) > 8) finger.moved = true;
      if (finger.moved) view.pan(place[0] - finger.place[0], place[1] - finger.place[1]);
    }
    finger.place = place;
  };

  const end = (event, given) => {
    const place = at(event);
    if (event.pointerType === "touch") {
      const finger = fingers.get(event.pointerId);
      fingers.delete(event.pointerId);
      if (given && finger && !finger.moved && !fingers.size) {
        const one = label.under(view.toImage(...place));
        label.select(one?.id ?? null);
        if (one) label.say(label.className(one.class), false);
      }
      return;
    }
    stage.style.cursor = "";
    if (moving) { moving = null; return; }
    if (!pressed) return;
    pressed = false;
    if (given) label.tools[label.tool].up(view.toImage(...place), told(event, place));
    else label.tools[label.tool].cancel();
  };
  stage.addEventListener("pointerup", (event) => end(event, true));
  stage.addEventListener("pointercancel", (event) => end(event, false));
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("pointerleave", () => {
    label.pointer = null;
    if (!pressed && !label.cross) label.unlight();
  });
  stage.addEventListener("dblclick", () => { if (label.tool === "points") label.tools.points.close(); });

  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    // Shift turns the wheel sideways in most browsers.
    const turn = event.deltaY || event.deltaX;
    if (event.shiftKey) { label.other(turn > 0 ? 1 : -1); return; }
    const pixels = turn * (event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1);
    view.zoom(Math.exp(-Math.max(-240, Math.min(240, pixels)) * (event.ctrlKey ? 0.01 : 0.0022)), ...at(event));
  }, {passive: false});
};
