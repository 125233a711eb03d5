// Labelling: the state of the page, and everything that can be done to it. Tools, keys and panels call these
// functions; the server answers with what changed.
import {$, announce, plural, toast} from "./dom.js";
import {client, get, post} from "./api.js";
import {View, pathOf} from "./view.js";
import {toolsOf} from "./tools.js";
import {startKeys} from "./keys.js";
import {startPointer} from "./pointer.js";
import {Panels} from "./panels.js";

const SAME = 0.8;  // boxes that overlap so much are of one object
const CANDIDATES = 5;
const LEAST = 0.01;  // score of what lights up under the pointer
const POLL = {busy: 1000, idle: 4000};  // ms

const overlap = (a, b) => {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return width * height / (area(a) + area(b) - width * height);
};

const byArea = (a, b) => a.area - b.area;

const drawable = (one) => Object.assign(one, {
  path: pathOf(one.rings),
  area: one.area ?? (one.box[2] - one.box[0]) * (one.box[3] - one.box[1]),
});

export class Label {
  constructor() {
    this.images = [];       // [id, name, done, number of objects]
    this.places = new Map();  // id: index in images
    this.image = null;
    this.objects = new Map();
    this.suggestions = [];
    this.gone = new Map();  // boxes of deleted objects: their suggestions stay away
    this.selection = null;
    this.lit = null;        // what is under the pointer: {items, index, p}
    this.active = 0;
    this.threshold = 0.5;
    this.radius = 14;
    this.leastSure = false;
    this.held = true;
    this.overview = null;
    this.session = null;    // box and points of the selected object: {id, box, positive, negative}
    this.tasks = this.loading = Promise.resolve();
    this.pending = 0;
    this.view = new View($("#stage"), {shapes: () => this.shapes(), top: (context) => this.paint(context)});
    this.tools = toolsOf(this);
    this.tool = "find";
    this.panels = new Panels(this);
    this.hitting = document.createElement("canvas").getContext("2d");
  }

  // -- what is there

  colour(id) { return this.colours.get(id) ?? "#888888"; }
  className(id) { return this.overview.classes.find((one) => one.id === id)?.name ?? "?"; }
  selected() { return this.objects.get(this.selection) ?? null; }

  /** Suggestions that are shown: above the slider, and not taken or sent away. */
  visible() {
    if (!this.image || this.image.done) return [];
    if (!this.seen) {
      const known = [...[...this.objects.values()].map((one) => one.box), ...this.gone.values()];
      this.seen = this.suggestions.filter((one) => one.score >= this.threshold && !known.some((box) => overlap(box, one.box) >= SAME));
    }
    return this.seen;
  }

  shapes() {
    this.drawn ??= [
      ...[...this.objects.values()].sort((a, b) => b.area - a.area)
        .map((one) => ({path: one.path, box: one.box, crowd: one.crowd, colour: this.colour(one.class)})),
      ...this.visible().map((one) => ({path: one.path, box: one.box, suggested: true, colour: this.colour(this.classOf(one))})),
    ];
    return this.drawn;
  }

  classOf(suggestion) { return suggestion.class ?? this.active; }
  strokeClass() { return this.selected()?.class ?? this.active; }

  changed() {
    this.seen = this.drawn = null;
    this.view.change();
    this.panels.objects();
  }

  say(text, aloud = true) {
    if (aloud) announce(text);
    this.hint(text);
    clearTimeout(this.saying);
    this.saying = setTimeout(() => this.hint(""), 2500);
  }

  hint(text) { $("#hint").textContent = text; }

  // -- images

  async start() {
    startPointer(this);
    startKeys(this);
    this.panels.start();
    await this.lease(false);
    await this.refresh();
    this.images = await get("/api/label/images");
    this.images.forEach((one, index) => this.places.set(one[0], index));
    this.active = this.overview.classes[0]?.id ?? 0;
    this.panels.images();
    this.poll();
    const asked = Number(new URLSearchParams(location.hash.slice(1)).get("image"));
    const first = this.places.has(asked) ? asked : (this.images.find((one) => !one[2]) ?? this.images[0])[0];
    await this.open(first);
  }

  async open(id) {
    this.wanted = id;
    await this.tasks;  // what was done to the image before goes to that image
    if (this.wanted !== id) return;
    await this.load(id);
  }

  load(id) {
    this.loading = this.fetch(id);
    return this.loading;
  }

  async fetch(id) {
    this.tools[this.tool].cancel();
    const turn = this.turn = {};
    Object.assign(this, {image: null, selection: null, lit: null, session: null, suggestions: [], ready: false});
    this.objects.clear();
    this.gone.clear();
    this.changed();
    this.panels.at(id);
    let image;
    try {
      image = await get(`/api/label/images/${id}`);
    } catch (error) {
      if (turn === this.turn) {
        this.view.clear();
        this.empty(`${this.images[this.places.get(id)]?.[1] ?? ""}\n${error.message}`);
        this.broken = id;
      }
      return;
    }
    if (turn !== this.turn) return;
    this.broken = null;
    this.empty("");
    this.image = image;
    history.replaceState(null, "", `#image=${id}`);
    for (const one of image.objects) this.objects.set(one.id, drawable(one));
    for (const [number, box] of image.deleted) this.gone.set(number, box);
    this.suggested(image);
    this.changed();
    this.panels.standing();
    announce(`Image ${this.places.get(id) + 1}, ${image.name}: ${plural(this.objects.size, "object")}${image.done ? ", labelled" : ""}`);
    this.view.show(image).catch(() => {});
    if (!image.ready || image.suggestions === null) this.wait(turn);
  }

  empty(text) {
    $("#empty").hidden = !text;
    $("#empty").textContent = text;
  }

  suggested(answer) {
    this.ready = answer.ready;
    this.suggestions = (answer.suggestions ?? []).map(drawable);
    this.looking = answer.suggestions === null;
    this.changed();
    this.panels.foot();
  }

  /** Ask until the model has looked at the image. */
  async wait(turn) {
    while (turn === this.turn && this.image) {
      await new Promise((done) => setTimeout(done, 250));
      if (turn !== this.turn || this.overview.model_error) return;
      try {
        const answer = await get(`/api/label/images/${this.image.id}/suggestions`);
        if (turn !== this.turn) return;
        this.suggested(answer);
        if (answer.ready && answer.suggestions !== null) {
          const count = this.visible().length;
          if (count) announce(plural(count, "suggestion"));
          if (this.pointer) this.point(this.pointer);
          return;
        }
      } catch {
        return;
      }
    }
  }

  here() { return this.image?.id ?? this.broken ?? 0; }

  next() { return this.task(() => this.goNext()); }

  async goNext() {
    const {image} = await get(`/api/label/next?after=${this.here()}&least_sure=${this.leastSure}`);
    if (image !== null) { await this.load(image); return; }
    toast("All images are labelled");
    announce("All images are labelled");
    const index = this.places.get(this.here()) + 1;
    if (this.images[index]) await this.load(this.images[index][0]);
  }

  /** Go through the list in its order. */
  step(by) {
    const index = this.places.get(this.here()) + by;
    if (this.images[index]) this.open(this.images[index][0]);
  }

  // -- the server

  async lease(take) {
    const {held} = await post("/api/label/lease", {take});
    if (held && !this.held && this.image) await this.open(this.image.id);  // the other tab may have changed it
    this.held = held;
    $("#taken").hidden = held;
  }

  async poll() {
    const busy = () => this.overview && (this.overview.left || this.overview.training?.state === "running");
    for (;;) {
      await new Promise((done) => setTimeout(done, busy() ? POLL.busy : POLL.idle));
      try {
        await this.refresh();
        await this.lease(false);
        this.silent = false;
      } catch (error) {
        if (!this.silent) toast(error.message, true);
        this.silent = true;
      }
    }
  }

  async refresh() {
    const before = this.overview;
    this.overview = await get("/api/label/overview");
    this.colours = new Map(this.overview.classes.map((one) => [one.id, one.colour]));
    this.panels.overview(before);
    if (before && before.classes.map((one) => one.id + one.name).join() !== this.overview.classes.map((one) => one.id + one.name).join()) this.changed();
    if (before && this.image && this.overview.model !== before.model) {
      this.suggestions = [];
      this.ready = false;
      this.changed();
      this.wait(this.turn = {});
    }
  }

  refreshSoon() {
    clearTimeout(this.soon);
    this.soon = setTimeout(() => this.refresh().catch(() => {}), 150);
  }

  /** One after the other, as fast hands want it: the second of two strokes changes what the first left. */
  task(work) {
    this.pending += 1;
    $("#stage").setAttribute("aria-busy", "true");
    this.tasks = this.tasks.then(() => this.loading).then(work).catch((error) => {
      if (error.status === 409) { this.held = false; $("#taken").hidden = false; }
      toast(error.message, true);
    }).finally(() => {
      this.pending -= 1;
      $("#stage").setAttribute("aria-busy", String(this.pending > 0));
    });
    return this.tasks;
  }

  /** Do something to the image that is shown, in a task. Returns the ids of the objects that it left. */
  async act(actions) {
    return this.apply(await post(`/api/label/images/${this.image.id}/changes`, {actions}));
  }

  apply(answer) {
    const place = this.places.get(answer.image);
    if (place !== undefined) {
      const row = this.images[place];
      row[2] = answer.done;
      row[3] = answer.count;
      this.panels.row(place);
    }
    this.refreshSoon();
    if (answer.image !== this.image?.id) return [];
    this.image.done = answer.done;
    for (const id of answer.removed) { this.objects.delete(id); this.gone.delete(id); }
    for (const [id, box] of answer.deleted) { this.objects.delete(id); this.gone.set(id, box); }
    for (const one of answer.objects) { this.gone.delete(one.id); this.objects.set(one.id, drawable(one)); }
    if (!this.objects.has(this.selection)) this.selection = null;
    this.lit = null;
    this.changed();
    this.panels.standing();
    this.panels.foot();
    if (answer.what) announce(answer.what);
    return answer.objects.map((one) => one.id);
  }

  travel(way) {
    this.tools[this.tool].cancel();
    return this.task(async () => {
      const answer = await post(`/api/label/${way}`);
      if (answer === null) { this.say(`Nothing to ${way}`); return; }
      this.session = null;
      if (answer.image !== null && answer.image !== this.image?.id) await this.load(answer.image);
      const left = this.apply(answer);
      if (left.length === 1) this.selection = left[0];
      this.changed();
      this.say(`${way === "undo" ? "Undone" : "Redone"}: ${answer.what}`);
    });
  }

  // -- under the pointer

  hit(shape, [x, y]) {
    const box = shape.box;
    return x >= box[0] - 1 && y >= box[1] - 1 && x <= box[2] + 1 && y <= box[3] + 1
      && this.hitting.isPointInPath(shape.path, x, y, "evenodd");
  }

  /** The smallest object at a point. */
  under(p) {
    return [...this.objects.values()].filter((one) => this.hit(one, p)).sort(byArea)[0] ?? null;
  }

  /** The pointer is at p: light up what is there, and ask the model for more. */
  point(p) {
    this.pointer = p;
    const far = this.lit && Math.hypot(p[0] - this.lit.p[0], p[1] - this.lit.p[1]) * this.view.scale;
    if (this.lit?.stepped && far < 6) return;
    this.light(p, this.asked?.candidates ?? []);
    this.ask(p);
  }

  light(p, candidates) {
    const objects = [...this.objects.values()].filter((one) => this.hit(one, p)).sort(byArea);
    const suggestions = this.visible().filter((one) => this.hit(one, p)).sort((a, b) => b.score - a.score);
    const known = [...objects, ...suggestions];
    const others = candidates.filter((one) => one.score >= LEAST && this.hit(one, p) && !known.some((other) => overlap(one.box, other.box) >= SAME));
    const best = objects[0] ?? suggestions[0] ?? others[0];
    if (!best) { this.unlight(); return; }
    const items = [...known, ...others].sort(byArea);
    this.lit = {items, index: items.indexOf(best), p, stepped: false};
    this.describe();
  }

  unlight() {
    this.lit = null;
    this.hint("");
    this.view.draw();
  }

  item() { return this.lit?.items[this.lit.index] ?? null; }

  describe() {
    const one = this.item();
    this.view.draw();
    if (!one) return;
    const more = this.lit.items.length > 1 ? `  ·  ${this.lit.index + 1} of ${this.lit.items.length} here  [ ]` : "";
    const name = this.className(one.id ? one.class : this.classOf(one));
    this.hint(one.id ? `${name}${more}` : `${name}? ${one.score.toFixed(2)}  ·  click accepts${more}`);
  }

  /** One question at a time; the latest place is asked for next. */
  ask(p) {
    if (!this.ready || this.tool !== "find" || !this.image) return;
    this.later = p;
    this.asking ??= this.keepAsking().finally(() => { this.asking = null; });
  }

  async keepAsking() {
    while (this.later && this.image) {
      const p = this.later, turn = this.turn, [x, y] = p;
      this.later = null;
      const inside = x >= 0 && y >= 0 && x < this.image.width && y < this.image.height;
      try {
        const found = inside ? await get(`/api/label/images/${this.image.id}/point?x=${x.toFixed(1)}&y=${y.toFixed(1)}&count=${CANDIDATES}`) : [];
        if (turn !== this.turn) return;
        this.asked = {p, candidates: found.map(drawable)};
        if (this.pointer && !this.lit?.stepped && !this.band) this.light(this.pointer, this.asked.candidates);
      } catch {
        this.asked = null;
      }
    }
  }

  /** A smaller (-1) or larger (1) one at the same place. */
  other(by) {
    if (!this.lit) return;
    this.lit.index = Math.min(this.lit.items.length - 1, Math.max(0, this.lit.index + by));
    this.lit.stepped = true;
    this.describe();
    const one = this.item();
    announce(`${this.className(one.class ?? this.active)}, ${Math.round(one.area)} pixels, ${this.lit.index + 1} of ${this.lit.items.length}`);
  }

  // -- objects

  select(id, reveal = false) {
    this.selection = id;
    this.session = null;
    const one = this.selected();
    if (one && reveal) this.view.reveal(one.box);
    this.view.draw();
    this.panels.selected();
    if (one) announce(`${this.className(one.class)} selected`);
  }

  /** The next (1) or previous (-1) object or suggestion. */
  cycle(by) {
    const all = [...this.objects.values(), ...this.visible()].sort((a, b) => a.box[1] - b.box[1] || a.box[0] - b.box[0]);
    if (!all.length) return;
    const current = all.indexOf(this.selected() ?? this.item());
    const one = all[(current + by + all.length) % all.length] ?? all[0];
    if (one.id) { this.unlight(); this.select(one.id, true); return; }
    this.select(null);
    this.view.reveal(one.box);
    this.lit = {items: [one], index: 0, p: [one.box[0], one.box[1]], stepped: true};
    this.describe();
    announce(`Suggestion: ${this.className(this.classOf(one))}, ${one.score.toFixed(2)}`);
  }

  /** A click: select the object that is lit up, or accept the suggestion. */
  take(p) {
    if (p && !this.lit?.stepped) this.light(p, this.asked?.candidates ?? []);
    const shown = this.item();
    return this.task(async () => {
      let one = shown;
      if (!one && p && this.ready) {  // clicked before the model has answered for this place
        await this.asking;
        if (this.asked?.p !== p) { this.ask(p); await this.asking; }
        this.light(p, this.asked?.candidates ?? []);
        one = this.item();
      }
      if (!one) this.select(null);
      else if (one.id) this.select(one.id);
      else await this.added({rle: one.rle}, this.classOf(one));
    });
  }

  add(shape) { return this.task(() => this.added(shape, this.active)); }

  async added(shape, class_) {
    if (!this.image) return;
    const ids = await this.act([{do: "add", class: class_, shape}]);
    if (ids.length) this.select(ids[0]);
  }

  fromBox(box) {
    return this.task(async () => {
      const one = this.image && await this.mask(box, [], []);
      if (!one) return;
      await this.added({rle: one.rle}, this.classOf(one));
      if (this.selection) this.session = {id: this.selection, box, positive: [], negative: []};
    });
  }

  async mask(box, positive, negative) {
    const {width, height, id} = this.image;
    const clip = (v, side) => Math.min(side, Math.max(0, v));
    const inside = [clip(box[0], width), clip(box[1], height), clip(box[2], width), clip(box[3], height)];
    if (inside[2] - inside[0] < 1 || inside[3] - inside[1] < 1) return null;
    const one = await post(`/api/label/images/${id}/box`, {box: inside, positive, negative});
    if (!one) this.say("The model sees no object there: draw it with the brush (B) or as a polygon (P)");
    return one;
  }

  /** Add to the selected object what is at p, or take it away. */
  refine(p, add) { return this.task(() => this.refined(p, add)); }

  async refined(p, add) {
    const object = this.selected();
    if (!object) { this.say("Select an object first"); return; }
    const session = this.session?.id === object.id ? this.session : {id: object.id, box: object.box, positive: [], negative: []};
    (add ? session.positive : session.negative).push(p);
    const box = [...session.box];
    if (add) {
      box[0] = Math.min(box[0], p[0]); box[1] = Math.min(box[1], p[1]);
      box[2] = Math.max(box[2], p[0]); box[3] = Math.max(box[3], p[1]);
    }
    session.box = box;
    const one = await this.mask(box, session.positive, session.negative);
    if (!one) return;
    await this.act([{do: "reshape", id: object.id, shape: {rle: one.rle}}]);
    this.session = session;
  }

  reshape(object, rings) { return this.task(() => this.act([{do: "reshape", id: object.id, shape: {rings}}])); }

  stroke(stroke, erase) {
    return this.task(async () => {
      const object = this.selected();
      this.session = null;
      if (object) await this.act([{do: "paint", id: object.id, stroke, erase}]);
      else await this.added({stroke}, this.active);
    });
  }

  /** Delete the selected object, or send away the suggestion that is lit up. */
  remove() {
    const lit = this.item();
    return this.task(async () => {
      const one = this.selected() ?? lit;
      if (!one || !this.image) return;
      if (one.id) await this.act([{do: "delete", id: one.id}]);
      else if (this.suggestions.includes(one)) await this.act([{do: "dismiss", class: this.classOf(one), shape: {rle: one.rle}}]);
    });
  }

  restore(id) { return this.task(() => this.act([{do: "restore", id}])); }

  setClass(id) {
    return this.task(async () => {
      this.active = id;
      this.panels.classes();
      const object = this.selected();
      if (object && object.class !== id) await this.act([{do: "class", id: object.id, class: id}]);
      else this.changed();
      announce(`Class ${this.className(id)}`);
    });
  }

  /** Accept all suggestions that are shown; the image is labelled; show the next one. */
  accept() {
    return this.task(async () => {
      if (this.image && !this.image.done) {
        // Without objects it would teach that there are none.
        if (this.looking && !this.objects.size && this.insisted !== this.image.id && !this.overview.model_error) {
          this.insisted = this.image.id;
          this.say("The model is still looking. Enter again: no objects here");
          return;
        }
        const actions = this.visible().map((one) => ({do: "add", class: this.classOf(one), shape: {rle: one.rle}}));
        await this.act([...actions, {do: "done", done: true}]);
      }
      await this.goNext();
    });
  }

  /** The image counts as labelled, or no longer. */
  flipDone() {
    return this.task(async () => {
      if (!this.image) return;
      await this.act([{do: "done", done: !this.image.done}]);
      if (!this.image.done && this.looking) this.wait(this.turn);
    });
  }

  // -- tools

  use(tool) {
    this.tools[this.tool].cancel();
    this.tool = tool;
    this.unlight();
    this.panels.tool();
    this.view.draw();
    const hint = {
      find: "Click what lights up, or drag a box. Shift-click adds, Alt-click takes away",
      brush: "Paint on the selected object, or a new one",
      erase: "Take away from the selected object",
      points: "Click to draw a polygon; drag points; Alt-click deletes a point",
      pan: "Drag to move the image",
    }[tool];
    this.say(hint);
  }

  /** Escape: give up what is being drawn, else select nothing. */
  escape() {
    if (this.tools[this.tool].cancel()) return;
    this.unlight();
    this.select(null);
  }

  paint(context) {
    const view = this.view, selected = this.selected(), lit = this.tool === "find" ? this.item() : null;
    context.save();
    context.translate(view.x, view.y);
    context.scale(view.scale, view.scale);
    const unit = 1 / view.scale;
    context.lineJoin = "round";
    // What is not accepted yet is filled; an object's edge should be judged on the image itself.
    for (const [one, fill] of [[selected, 0], [lit, lit?.id ? 0.12 : 0.42]]) {
      if (!one || view.hidden) continue;
      const colour = this.colour(one.id ? one.class : this.classOf(one));
      context.fillStyle = colour;
      context.globalAlpha = fill;
      context.fill(one.path, "evenodd");
      context.globalAlpha = 1;
      for (const [stroke, width] of [["#000c", 5], ["#fff", 3], [colour, 1.5]]) {
        context.strokeStyle = stroke;
        context.lineWidth = width * unit;
        context.stroke(one.path);
      }
    }
    context.restore();
    this.tools[this.tool].paint(context, view);
    if (this.cross) {
      const [x, y] = view.toStage(...this.cross);
      for (const [colour, width] of [["#000", 4], ["#fff", 1.5]]) {
        context.strokeStyle = colour;
        context.lineWidth = width;
        context.beginPath();
        context.moveTo(x - 12, y); context.lineTo(x + 12, y);
        context.moveTo(x, y - 12); context.lineTo(x, y + 12);
        context.stroke();
      }
    }
  }
}

export const startLabel = async () => {
  const label = new Label();
  addEventListener("pagehide", () => navigator.sendBeacon(`/api/label/leave?client=${client}`));
  $("#take").addEventListener("click", () => label.lease(true).catch((error) => toast(error.message, true)));
  await label.start();
};
