// The lists, the classes, the slider and the training beside the image.
import {$, announce, duration, icon, make, plural, toast} from "./dom.js";
import {get, post} from "./api.js";
import {VirtualList} from "./list.js";

export class Panels {
  constructor(label) {
    this.label = label;
    this.found = [];  // the images that the search found, as places in label.images
    this.rows = [];   // the objects and suggestions of the list
    this.list = new VirtualList($("#list"), 48, (row, i) => this.fillImage(row, i), (i) => label.open(label.images[this.found[i]][0]));
    this.objectList = new VirtualList($("#objects"), 26, (row, i) => this.fillObject(row, i), (i) => this.chooseObject(i));
  }

  start() {
    const {label} = this;
    $("#search").addEventListener("input", () => this.images());
    $("#order").value = localStorage.getItem("order") ?? "order";
    label.leastSure = $("#order").value === "unsure";
    $("#order").addEventListener("change", (event) => {
      localStorage.setItem("order", event.target.value);
      label.leastSure = event.target.value === "unsure";
    });
    for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => label.use(button.dataset.tool));
    $("#fit").addEventListener("click", () => label.view.fit());
    $("#hide").addEventListener("click", () => this.hide());
    $("#radius").addEventListener("input", (event) => this.radius(Number(event.target.value)));
    $("#score").addEventListener("input", (event) => this.setThreshold(Number(event.target.value)));
    $("#accept").addEventListener("click", () => label.accept());
    $("#skip").addEventListener("click", () => label.next());
    $("#previous").addEventListener("click", () => label.step(-1));
    $("#undo").addEventListener("click", () => label.travel("undo"));
    $("#redo").addEventListener("click", () => label.travel("redo"));
    $("#help").addEventListener("click", () => $("#keys").showModal());
    $("#train").addEventListener("click", () => this.train());
    $("#stop").addEventListener("click", () => label.task(async () => { await post("/api/label/train/stop"); await label.refresh(); }));
    $("#model").addEventListener("change", (event) => {
      const name = event.target.value;
      label.task(async () => { await post("/api/label/model", {name}); await label.refresh(); });
    });
    $("#check").addEventListener("click", () => this.check());
    $("#deleted").addEventListener("click", () => this.bin());
    $("#new-class").addEventListener("submit", (event) => { event.preventDefault(); this.newClass(); });
    for (const button of document.querySelectorAll("[data-pane]")) button.addEventListener("click", () => this.pane(button.dataset.pane));
    this.pane("work");
    addEventListener("repaint", () => label.view.change());
  }

  // -- images

  images() {
    const wanted = $("#search").value.trim().toLowerCase(), all = this.label.images;
    this.found = [];
    for (let i = 0; i < all.length; i++) if (!wanted || all[i][1].toLowerCase().includes(wanted)) this.found.push(i);
    this.list.set(this.found.length);
    this.at(this.label.here());
  }

  fillImage(row, index) {
    const [id, name, done, count] = this.label.images[this.found[index]];
    const thumbnail = make("img", {alt: "", width: 40, height: 40, loading: "lazy"});
    // A list that is scrolled quickly asks for no thumbnail on its way.
    setTimeout(() => { if (row.isConnected) thumbnail.src = `/api/label/images/${id}/thumb.jpg`; }, 120);
    const slash = name.lastIndexOf("/");
    row.append(thumbnail, make("span", {class: "name", title: name},
      make("span", {text: name.slice(slash + 1)}),
      make("span", {class: "quiet", text: [name.slice(0, Math.max(0, slash)), count ? plural(count, "object") : ""].filter(Boolean).join(" · ")})));
    if (done) row.append(icon("check"));
    row.setAttribute("aria-label", `${name}, ${plural(count, "object")}${done ? ", labelled" : ""}`);
  }

  row(place) {
    const index = this.found.indexOf(place);
    if (index >= 0) this.list.redraw(index);
  }

  at(id) {
    this.list.select(this.found.indexOf(this.label.places.get(id)));
    this.standing();
  }

  standing() {
    const {label} = this, {overview} = label;
    if (!overview) return;
    $("#share").value = overview.images ? overview.labelled / overview.images : 0;
    const held = overview.held_out ? ` (${overview.held_out} held out)` : "";
    const ap = overview.ap === null ? "" : ` · AP ${overview.ap.toFixed(2)}`;
    $("#share-text").textContent = `${overview.labelled} of ${overview.images} labelled${held}${ap}`;
    const row = label.images[label.places.get(label.here())];
    $("#where").textContent = row ? `${row[1]}${label.image ? `  ${label.image.width} × ${label.image.height}` : ""}` : "";
    $("#accept").firstChild.textContent = label.image?.done ? "Next " : "Done, next ";
  }

  // -- classes

  overview(before) {
    const {overview} = this.label;
    this.standing();
    const known = before && JSON.stringify(before.classes) === JSON.stringify(overview.classes);
    if (!known) this.classes();
    $("#unsaved").hidden = !overview.write_error;
    $("#unsaved").textContent = `The data set cannot be written: ${overview.write_error}. The labels are kept and written again at the next change.`;
    const left = overview.left ? `${plural(overview.left, "image")} to look at` : "";
    const names = overview.models.join();
    if (this.modelNames !== names) {
      this.modelNames = names;
      $("#model").replaceChildren(...overview.models.map((name) => make("option", {value: name, text: name === "general" ? "General: any object" : name})));
    }
    $("#model").value = overview.model;
    $("#model-text").textContent = overview.model_error || left;
    this.training(before?.training);
    this.foot();
  }

  classes() {
    const {label} = this, box = $("#classes");
    const {classes} = label.overview, key = classes.map((one) => one.id).join();
    if ($("#classes .renaming")) return;
    if (this.classKey !== key) {
      this.classKey = key;
      box.replaceChildren(...classes.map(({id, colour}, index) => {
        const button = make("button", {
          type: "button", role: "radio", "data-id": id, title: "Double-click renames", style: {"--colour": colour},
          on: {click: () => label.setClass(id), dblclick: () => this.rename(id, button)},
        }, make("span", {class: "swatch"}), make("span", {class: "name"}), make("span", {class: "number"}));
        if (index < 10) button.append(make("kbd", {text: (index + 1) % 10}));
        return button;
      }));
    }
    // In place: a row that is clicked twice must stay.
    classes.forEach((one, index) => {
      const button = box.children[index];
      button.setAttribute("aria-checked", String(one.id === label.active));
      $(".name", button).textContent = one.name;
      $(".number", button).textContent = one.objects;
    });
  }

  rename(id, button) {
    const one = {id, name: this.label.className(id)};
    const field = make("input", {maxlength: 100, class: "renaming", "aria-label": `New name of ${one.name}`});
    field.value = one.name;
    let over = false;
    const finish = async (keep) => {
      if (over) return;
      over = true;
      field.replaceWith(button);
      const name = field.value.trim();
      if (keep && name && name !== one.name) {
        await this.label.task(async () => { await post(`/api/label/classes/${id}`, {name}); await this.label.refresh(); });
      }
      this.classes();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") finish(true);
      if (event.key === "Escape") finish(false);
    });
    field.addEventListener("blur", () => finish(true));
    button.replaceWith(field);
    field.focus();
    field.select();
  }

  async newClass() {
    const field = $("#class-name"), name = field.value.trim();
    if (!name) return;
    let id;
    await this.label.task(async () => {
      ({id} = await post("/api/label/classes", {name}));
      await this.label.refresh();
    });
    if (id === undefined) return;
    field.value = "";
    await this.label.setClass(id);
    $("#stage").focus();
  }

  digit(number) {
    const one = this.label.overview.classes[(number + 9) % 10];
    if (one) this.label.setClass(one.id);
  }

  // -- objects

  objects() {
    const {label} = this;
    const objects = [...label.objects.values()], suggestions = label.visible();
    this.rows = [...objects, ...suggestions];
    const more = suggestions.length ? ` + ${suggestions.length} suggested` : "";
    $("#object-count").textContent = label.image ? `${objects.length}${more}` : "";
    this.objectList.set(this.rows.length, this.rows.indexOf(label.selected()));
    this.foot();
  }

  fillObject(row, index) {
    const {label} = this, one = this.rows[index], own = Boolean(one.id);
    const class_ = own ? one.class : label.classOf(one), name = label.className(class_);
    row.style.setProperty("--colour", label.colour(class_));
    row.classList.toggle("suggested", !own);
    row.append(make("span", {class: "swatch"}), make("span", {class: "name", text: own ? name : `${name}?`}),
      make("span", {class: "number", text: own ? `${Math.round(one.area).toLocaleString("en")} px` : one.score.toFixed(2)}));
    row.setAttribute("aria-label", own ? `${name}, ${Math.round(one.area)} pixels${one.crowd ? ", crowd" : ""}` : `Suggestion ${name}, ${one.score.toFixed(2)}`);
  }

  chooseObject(index) {
    const one = this.rows[index], {label} = this;
    if (one.id) {
      label.unlight();
      label.select(one.id, true);
    } else {
      label.select(null);
      label.view.reveal(one.box);
      label.lit = {items: [one], index: 0, p: [one.box[0], one.box[1]], stepped: true};
      label.describe();
    }
    this.objectList.select(index);
  }

  selected() { this.objectList.select(this.rows.indexOf(this.label.selected())); }

  // -- suggestions

  setThreshold(value) {
    const kept = Math.min(1, Math.max(0.05, value));
    this.label.threshold = kept;
    $("#score").value = kept;
    $("#score-text").textContent = kept.toFixed(2);
    this.label.changed();
  }

  slide(by) {
    this.setThreshold(this.label.threshold + by);
    announce(`Suggestions from ${this.label.threshold.toFixed(2)}: ${this.label.visible().length}`);
  }

  foot() {
    const {label} = this, image = label.image;
    const text = !image ? ""
      : image.done ? "labelled"
      : label.overview?.model_error ? "no model"
      : label.looking || !label.ready ? "the model is looking …"
      : plural(label.visible().length, "suggestion");
    $("#foot-text").textContent = text;
  }

  // -- tools

  tool() {
    const {tool} = this.label;
    for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    $("#brush-size").hidden = !["brush", "erase"].includes(tool);
    $("#stage").style.cursor = {brush: "none", erase: "none", points: "crosshair", pan: "grab"}[tool] ?? "default";
  }

  radius(value) {
    this.label.radius = Math.min(100, Math.max(1, value));
    $("#radius").value = this.label.radius;
    this.label.view.draw();
  }

  hide() {
    const {view} = this.label;
    view.hidden = !view.hidden;
    $("#hide").setAttribute("aria-pressed", String(view.hidden));
    view.change();
    announce(view.hidden ? "Objects hidden" : "Objects shown");
  }

  pane(name) {
    for (const part of ["images", "work", "side"]) $(`#pane-${part}`).classList.toggle("shown", part === name);
    for (const button of document.querySelectorAll("[data-pane]")) button.setAttribute("aria-pressed", String(button.dataset.pane === name));
  }

  // -- training

  async train() {
    const {label} = this;
    if (label.overview.training?.state === "running") { label.say("A training is running"); return; }
    const minutes = Number($("#minutes").value);
    if (!(minutes > 0)) { toast("Say for how many minutes", true); return; }
    await label.task(async () => {
      await post("/api/label/train", {minutes});
      announce("Training has begun");
      await label.refresh();
    });
  }

  training(before) {
    const {training} = this.label.overview;
    $("#training").hidden = training?.state !== "running";
    $("#train-row").hidden = training?.state === "running";
    const said = training && training.state !== "running";
    $("#training-said").hidden = !(said && training.said);
    $("#training-said").textContent = training?.said ?? "";
    if (before?.state === "running" && said) {
      const ap = training.ap === null ? "" : `, AP ${training.ap.toFixed(2)} on the images held out`;
      const text = {done: `Trained in ${duration(training.seconds)}${ap}`, stopped: "The training was stopped", failed: "The training failed"}[training.state];
      toast(text, training.state === "failed");
      announce(text);
    }
    if (training?.state !== "running") return;
    $("#training-bar").value = 1 - training.left / (60 * training.minutes);
    const parts = [!training.losses.length ? "starting …" : training.left ? `${duration(training.left)} left` : "measuring …"];
    if (training.loss !== null) parts.push(`loss ${training.loss.toFixed(2)}`);
    if (training.ap !== null) parts.push(`AP ${training.ap.toFixed(2)}`);
    $("#training-text").textContent = parts.join(" · ");
    const most = Math.max(...training.losses, 1e-9), last = Math.max(1, training.losses.length - 1);
    $("#curve polyline").setAttribute("points", training.losses.map((v, i) => `${(200 * i / last).toFixed(1)},${(39 - 38 * v / most).toFixed(1)}`).join(" "));
  }

  // -- dialogs

  async check() {
    const {label} = this;
    $("#check").disabled = true;
    try {
      const {verdict, findings} = await get("/api/label/check");
      $("#verdict").textContent = verdict;
      const early = label.overview.problems.map((message) => ({severity: "error", check: "when opened", message, id: null}));
      $("#findings .findings").replaceChildren(...[...early, ...findings].map((one) => {
        const text = [make("b", {text: one.check}), one.message];
        if (one.id === null) return make("div", {class: one.severity}, ...text);
        return make("button", {value: "", class: one.severity, on: {click: () => label.open(one.id)}}, ...text);
      }));
      $("#findings").showModal();
    } catch (error) {
      toast(error.message, true);
    }
    $("#check").disabled = false;
  }

  async bin() {
    const {label} = this;
    if (!label.image) return;
    let gone;
    try {
      gone = await get(`/api/label/images/${label.image.id}/deleted`);
    } catch (error) {
      toast(error.message, true);
      return;
    }
    const rows = gone.map((one) => make("button", {on: {click: () => label.restore(one.id)}},
      make("b", {text: label.className(one.class)}), `${Math.round(one.area).toLocaleString("en")} pixels: have it back`));
    $("#bin .findings").replaceChildren(...(rows.length ? rows : [make("p", {class: "quiet", text: "Nothing was deleted here."})]));
    $("#bin").showModal();
  }
}
