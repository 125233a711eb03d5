// What the pointer does. Each tool has down, move, up and cancel; points are in pixels of the image, `at` in
// those of the stage. The keyboard's pointer calls the same functions.
import {pathOf} from "./view.js";

const NEAR = 8;  // pixels of the stage within which a point or a side is taken hold of
const DRAG = 4;  // pixels of the stage after which a press is a drag

const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);

/** Nearest place on the side a-b to p. */
const onSide = (p, a, b) => {
  const along = [b[0] - a[0], b[1] - a[1]], length = along[0] ** 2 + along[1] ** 2 || 1;
  const t = Math.min(1, Math.max(0, ((p[0] - a[0]) * along[0] + (p[1] - a[1]) * along[1]) / length));
  return [a[0] + t * along[0], a[1] + t * along[1]];
};

/** Point at an object, drag a box around one, add to the selected one and take away from it. */
class Find {
  constructor(label) { this.label = label; }

  down(p, event) {
    this.start = {p, at: event.at, drag: false};
  }

  move(p, event) {
    const {label, start} = this;
    if (start && (start.drag || distance(start.at, event.at) > DRAG)) {
      start.drag = true;
      label.band = [start.p, p];
      label.view.draw();
    } else if (!start) {
      label.point(p);
    }
  }

  up(p, event) {
    const {label, start} = this;
    this.start = null;
    label.band = null;
    label.view.draw();
    if (!start) return;
    if (start.drag) {
      const xs = [start.p[0], p[0]].sort((a, b) => a - b), ys = [start.p[1], p[1]].sort((a, b) => a - b);
      label.fromBox([xs[0], ys[0], xs[1], ys[1]]);
    } else if (event.alt || event.right) {
      label.refine(p, false);
    } else if (event.shift) {
      label.refine(p, true);
    } else {
      label.take(p);
    }
  }

  cancel() {
    this.start = null;
    this.label.band = null;
    this.label.view.draw();
  }

  paint(context, view) {
    const band = this.label.band;
    if (!band) return;
    const [a, b] = band.map((p) => view.toStage(...p));
    context.setLineDash([5, 4]);
    context.lineWidth = 1.5;
    for (const [colour, shift] of [["#000", 0], ["#fff", 5]]) {
      context.strokeStyle = colour;
      context.lineDashOffset = shift;
      context.strokeRect(Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.abs(a[0] - b[0]), Math.abs(a[1] - b[1]));
    }
    context.setLineDash([]);
  }
}

/** Paint on the selected object, or a new one; the eraser takes away. */
class Brush {
  constructor(label, erase) {
    this.label = label;
    this.erase = erase;
  }

  /** In pixels of the image: the slider is in pixels of the stage. */
  get radius() { return Math.max(0.5, this.label.radius / this.label.view.scale); }

  down(p) {
    if (this.erase && !this.label.selected()) {
      this.label.say("Select an object to erase from it");
      return;
    }
    this.points = [p];
    this.width = this.radius;
    this.at = p;
    this.label.view.draw();
  }

  move(p) {
    this.at = p;
    const points = this.points;
    if (points && distance(points.at(-1), p) > this.width / 4) points.push(p);
    this.label.view.draw();
  }

  up(p) {
    const points = this.points;
    this.points = null;
    if (!points) return;
    points.push(p);
    this.label.stroke({points, radius: this.width}, this.erase);
  }

  cancel() {
    this.points = null;
    this.label.view.draw();
  }

  paint(context, view) {
    if (this.points) {
      context.save();
      context.lineCap = context.lineJoin = "round";
      context.lineWidth = 2 * this.width * view.scale;
      context.strokeStyle = this.erase ? "#fff" : this.label.colour(this.label.strokeClass());
      context.globalAlpha = 0.45;
      context.beginPath();
      for (const p of [this.points[0], ...this.points]) context.lineTo(...view.toStage(...p));
      context.stroke();
      context.restore();
    }
    if (!this.at) return;
    const [x, y] = view.toStage(...this.at);
    for (const [colour, width] of [["#000a", 3], ["#fff", 1.3]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      context.arc(x, y, (this.points ? this.width : this.radius) * view.scale, 0, 7);
      context.stroke();
    }
  }
}

/** Draw a polygon; drag, add and delete the points of the selected object. */
class Points {
  constructor(label) { this.label = label; }

  /** The point of the selected object near `at`, else the place on its side. */
  hold(at) {
    const object = this.label.selected(), view = this.label.view;
    if (!object || this.drawing) return null;
    let best = null;
    object.rings.forEach((ring, r) => {
      const count = ring.length / 2;
      for (let i = 0; i < count; i++) {
        const a = view.toStage(ring[2 * i], ring[2 * i + 1]);
        const far = distance(a, at);
        if (far < NEAR && (!best || !best.point || far < best.far)) best = {r, i, far, point: true};
        if (best?.point) continue;
        const j = (i + 1) % count, b = view.toStage(ring[2 * j], ring[2 * j + 1]);
        const side = distance(onSide(at, a, b), at);
        if (side < NEAR - 2 && (!best || side < best.far)) best = {r, i, far: side, point: false};
      }
    });
    return best;
  }

  down(p, event) {
    const held = this.hold(event.at);
    if (held && event.alt) {
      if (held.point) this.remove(held);
      return;
    }
    if (held) {
      const rings = this.label.selected().rings.map((ring) => [...ring]);
      if (!held.point) {
        rings[held.r].splice(2 * held.i + 2, 0, ...p);
        held.i += 1;
      }
      this.moving = {...held, rings, moved: !held.point};
      return;
    }
    this.pressed = {p, at: event.at};
  }

  move(p, event) {
    const {label, moving} = this;
    this.at = p;
    if (moving) {
      moving.rings[moving.r][2 * moving.i] = p[0];
      moving.rings[moving.r][2 * moving.i + 1] = p[1];
      moving.moved = true;
    } else {
      this.near = this.hold(event.at);
    }
    label.view.draw();
  }

  up(p, event) {
    const {label, moving, pressed} = this;
    this.moving = this.pressed = null;
    if (moving) {
      if (moving.moved) label.reshape(label.selected(), moving.rings);
      return;
    }
    if (!pressed) return;
    if (!this.drawing && !event.shift) {
      const under = label.under(p);
      if (under && under.id !== label.selection) { label.select(under.id); return; }
    }
    this.drawing ??= [];
    const first = this.drawing.length >= 3 ? label.view.toStage(...this.drawing[0]) : null;
    if (first && distance(first, event.at) < NEAR + 2) this.close();
    else { this.drawing.push(p); label.say(`Point ${this.drawing.length}; Enter closes the polygon`, false); }
    label.view.draw();
  }

  /** Close the polygon that is being drawn. Returns whether there was one. */
  close() {
    const drawing = this.drawing;
    if (!drawing) return false;
    if (drawing.length < 3) {
      this.label.say("A polygon needs 3 points");
      return true;
    }
    this.drawing = null;
    this.label.add({rings: [drawing.flat()]});
    return true;
  }

  /** Delete the last point that was drawn, or the one near the pointer. Returns whether there was one. */
  back() {
    if (this.drawing) {
      this.drawing.pop();
      if (!this.drawing.length) this.drawing = null;
      this.label.view.draw();
      return true;
    }
    if (this.near?.point) {
      this.remove(this.near);
      this.near = null;
      return true;
    }
    return false;
  }

  remove({r, i}) {
    const object = this.label.selected(), rings = object.rings.map((ring) => [...ring]);
    rings[r].splice(2 * i, 2);
    if (rings[r].length < 6) rings.splice(r, 1);
    if (rings.length) this.label.reshape(object, rings);
    else this.label.remove();
  }

  cancel() {
    const had = Boolean(this.drawing || this.moving);
    this.drawing = this.moving = this.pressed = null;
    this.label.view.draw();
    return had;
  }

  paint(context, view) {
    const {label, drawing, moving} = this;
    const object = label.selected();
    const rings = moving?.rings ?? (drawing ? null : object?.rings);
    context.lineWidth = 1.5;
    if (moving) {
      context.save();
      context.translate(view.x, view.y);
      context.scale(view.scale, view.scale);
      context.lineWidth = 2 / view.scale;
      context.strokeStyle = "#fff";
      context.stroke(pathOf(moving.rings));
      context.restore();
    }
    const near = moving ?? this.near;
    rings?.forEach((ring, r) => {
      for (let i = 0; i < ring.length / 2; i++) {
        const [x, y] = view.toStage(ring[2 * i], ring[2 * i + 1]);
        if (x < -9 || y < -9 || x > view.width + 9 || y > view.height + 9) continue;
        const held = near?.point !== false && near?.r === r && near?.i === i;
        const side = held ? 5 : 3;
        context.fillStyle = held ? label.colour(object.class) : "#fff";
        context.strokeStyle = "#000";
        context.fillRect(x - side, y - side, 2 * side, 2 * side);
        context.strokeRect(x - side, y - side, 2 * side, 2 * side);
      }
    });
    if (!drawing) return;
    const points = [...drawing, ...(this.at ? [this.at] : [])].map((p) => view.toStage(...p));
    for (const [colour, width] of [["#000a", 4], [label.colour(label.active), 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      for (const p of points) context.lineTo(...p);
      context.stroke();
    }
    for (const p of drawing.map((q) => view.toStage(...q))) {
      context.fillStyle = "#fff";
      context.fillRect(p[0] - 3, p[1] - 3, 6, 6);
    }
  }
}

/** Only moves the image. */
class Pan {
  down() {}
  move() {}
  up() {}
  cancel() {}
  paint() {}
}

export const toolsOf = (label) => ({
  find: new Find(label),
  brush: new Brush(label, false),
  erase: new Brush(label, true),
  points: new Points(label),
  pan: new Pan(),
});
