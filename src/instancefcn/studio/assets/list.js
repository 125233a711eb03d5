// A list of any length: only the rows in view are elements. Arrow keys, Home, End and Page Up / Down choose.
import {make} from "./dom.js";

export class VirtualList {
  /**
   * box: the scrolling element, with role "listbox".
   * height: of a row, in pixels.
   * fill(row, index): puts an item's content into an empty row.
   * choose(index): a row was clicked, or chosen by keys.
   */
  constructor(box, height, fill, choose) {
    Object.assign(this, {box, height, fill, choose, count: 0, selected: -1, rows: new Map()});
    this.inner = make("div");
    box.append(this.inner);
    box.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(box);
    box.addEventListener("keydown", (event) => this.key(event));
    this.inner.addEventListener("click", (event) => {
      const row = event.target.closest(".item");
      if (row) this.choose(Number(row.dataset.index), event);
    });
  }

  /** Show this many items; their content may have changed. */
  set(count, selected = this.selected) {
    this.count = count;
    this.selected = selected;
    this.inner.style.height = `${count * this.height}px`;
    this.refresh();
  }

  refresh() {
    for (const row of this.rows.values()) row.remove();
    this.rows.clear();
    this.draw();
  }

  /** One item's content has changed. */
  redraw(index) {
    this.rows.get(index)?.remove();
    this.rows.delete(index);
    this.draw();
  }

  select(index, reveal = true) {
    const before = this.selected;
    this.selected = index;
    for (const i of [before, index]) this.rows.get(i)?.setAttribute("aria-selected", String(i === index));
    if (index >= 0) this.box.setAttribute("aria-activedescendant", `${this.box.id}-${index}`);
    else this.box.removeAttribute("aria-activedescendant");
    if (!reveal || index < 0) return;
    const top = index * this.height, view = this.box.clientHeight;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + this.height > this.box.scrollTop + view) this.box.scrollTop = top + this.height - view;
    this.draw();
  }

  draw() {
    const view = this.box.clientHeight;
    if (!view) return;
    const first = Math.max(0, Math.floor(this.box.scrollTop / this.height) - 4);
    const last = Math.min(this.count - 1, Math.ceil((this.box.scrollTop + view) / this.height) + 4);
    for (const [index, row] of this.rows) {
      if (index < first || index > last) {
        row.remove();
        this.rows.delete(index);
      }
    }
    for (let index = first; index <= last; index++) {
      if (this.rows.has(index)) continue;
      const row = make("div", {
        class: "item", role: "option", id: `${this.box.id}-${index}`, "data-index": index,
        "aria-selected": String(index === this.selected), "aria-setsize": this.count, "aria-posinset": index + 1,
        style: {top: `${index * this.height}px`, height: `${this.height}px`},
      });
      this.fill(row, index);
      this.inner.append(row);
      this.rows.set(index, row);
    }
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.height) - 1);
    const step = {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.count, End: this.count}[event.key];
    if (step === undefined || !this.count || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const next = Math.min(this.count - 1, Math.max(0, this.selected + step));
    if (next !== this.selected) this.choose(next, event);
  }
}
