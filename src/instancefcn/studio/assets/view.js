// Draws the image and the shapes on it, and knows where the window looks.
//
// Three canvases lie on one another: the image, the shapes, and what follows the pointer. Shapes are Path2D
// objects in pixels of the image, made once. While the view moves, the shapes' canvas is only shifted and
// scaled; it is drawn anew when the view rests.

const MOST = 64, LEAST_PART = 0.2;  // largest zoom; smallest, as a part of "the whole image fits"
const TILES = 48;
const FEW = 150;  // so many shapes are drawn anew in every frame
const REST = 90;  // ms

export const pathOf = (rings) => {
  const path = new Path2D();
  for (const ring of rings) {
    path.moveTo(ring[0], ring[1]);
    for (let i = 2; i < ring.length; i += 2) path.lineTo(ring[i], ring[i + 1]);
    path.closePath();
  }
  return path;
};

export class View {
  /** stage: the element to fill. paint: {shapes(): [..], top(context, view)}; see `drawShapes`. */
  constructor(stage, paint) {
    this.stage = stage;
    this.paint = paint;
    this.canvases = ["pixels", "shapes", "top"].map((name) => {
      const canvas = document.createElement("canvas");
      canvas.dataset.layer = name;
      stage.append(canvas);
      return canvas;
    });
    [this.pixels, this.shapes, this.top] = this.canvases.map((canvas) => canvas.getContext("2d"));
    this.image = null;
    this.base = null;
    this.tiles = new Map();
    this.scale = 1;
    this.x = this.y = 0;  // where the image's corner is, in pixels of the stage
    this.drawn = null;  // the view that the shapes' canvas shows
    this.stale = true;
    this.hidden = false;
    new ResizeObserver(() => this.resize()).observe(stage);
    this.resize();
  }

  resize() {
    const {clientWidth: width, clientHeight: height} = this.stage;
    if (!width || !height) return;
    const fitted = this.image && Math.abs(this.scale - this.fitting()) < 1e-6;
    this.width = width;
    this.height = height;
    this.ratio = Math.min(devicePixelRatio || 1, 2);
    for (const canvas of this.canvases) {
      canvas.width = Math.round(width * this.ratio);
      canvas.height = Math.round(height * this.ratio);
    }
    this.stale = true;
    if (fitted || (this.image && !this.placed)) this.fit();
    else this.draw();
  }

  /** Show another image: {id, width, height, whole, tile}. */
  async show(image) {
    this.image = image;
    this.base = null;
    this.tiles.clear();
    this.stale = true;
    this.placed = false;
    if (this.width) this.fit();
    const base = new Image();
    base.src = `/api/label/images/${image.id}/whole.jpg`;
    await base.decode();
    if (this.image !== image) return;
    this.base = base;
    this.draw();
  }

  clear() {
    this.image = this.base = null;
    this.stale = true;
    this.draw();
  }

  /** The part of the stage, beside the tools, that the whole image is fitted into: left, top, width, height. */
  free() {
    const margin = Math.min(20, this.width / 20), left = this.width > 600 ? 60 : margin;
    return [left, margin, this.width - left - margin, this.height - 2 * margin];
  }

  fitting() {
    const [, , width, height] = this.free();
    return Math.min(width / this.image.width, height / this.image.height);
  }

  fit() {
    if (!this.image || !this.width) return;
    this.placed = true;
    this.scale = this.fitting();
    const [left, top, width, height] = this.free();
    this.x = left + (width - this.scale * this.image.width) / 2;
    this.y = top + (height - this.scale * this.image.height) / 2;
    this.draw();
  }

  zoom(factor, x = this.width / 2, y = this.height / 2) {
    if (!this.image) return;
    const least = Math.min(1, LEAST_PART * this.fitting());
    const scale = Math.min(MOST, Math.max(least, this.scale * factor));
    this.x = x - (x - this.x) * scale / this.scale;
    this.y = y - (y - this.y) * scale / this.scale;
    this.scale = scale;
    this.keep();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.keep();
  }

  /** A part of the image always stays in view. */
  keep() {
    if (!this.image) return;
    const margin = 40;
    this.x = Math.min(this.width - margin, Math.max(margin - this.scale * this.image.width, this.x));
    this.y = Math.min(this.height - margin, Math.max(margin - this.scale * this.image.height, this.y));
    this.moved = performance.now();
    this.draw();
  }

  /** Bring a box x1, y1, x2, y2 of the image into view. */
  reveal(box) {
    const left = this.x + box[0] * this.scale, right = this.x + box[2] * this.scale;
    const top = this.y + box[1] * this.scale, bottom = this.y + box[3] * this.scale;
    if (right > 20 && bottom > 20 && left < this.width - 20 && top < this.height - 20) return;
    this.pan(this.width / 2 - (left + right) / 2, this.height / 2 - (top + bottom) / 2);
  }

  /** From pixels of the stage to those of the image, and back. */
  toImage(x, y) { return [(x - this.x) / this.scale, (y - this.y) / this.scale]; }
  toStage(x, y) { return [x * this.scale + this.x, y * this.scale + this.y]; }

  /** The shapes have changed. */
  change() {
    this.stale = true;
    this.draw();
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.frame();
    });
  }

  frame() {
    for (const context of [this.pixels, this.top]) {
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    }
    if (!this.image) {
      this.shapes.setTransform(1, 0, 0, 1, 0, 0);
      this.shapes.clearRect(0, 0, this.shapes.canvas.width, this.shapes.canvas.height);
      return;
    }
    this.stage.dataset.view = `${this.scale} ${this.x} ${this.y}`;
    this.drawPixels();
    this.placeShapes();
    this.top.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    this.paint.top(this.top, this);
  }

  enter(context) {
    const k = this.scale * this.ratio;
    context.setTransform(k, 0, 0, k, this.x * this.ratio, this.y * this.ratio);
  }

  drawPixels() {
    const context = this.pixels, {width, height} = this.image;
    this.enter(context);
    // Pixels are shown as they are when they are large.
    context.imageSmoothingEnabled = this.scale * this.ratio < 4;
    context.imageSmoothingQuality = "high";
    if (this.base) context.drawImage(this.base, 0, 0, width, height);
    else { context.fillStyle = "#8884"; context.fillRect(0, 0, width, height); }
    if (!this.base || width <= this.base.naturalWidth || this.scale * this.ratio < 1.15 * this.base.naturalWidth / width) return;
    const tile = this.image.tile;
    const [x1, y1] = this.toImage(0, 0), [x2, y2] = this.toImage(this.width, this.height);
    const clamp = (value, side) => Math.min(Math.ceil(side / tile) - 1, Math.max(0, Math.floor(value / tile)));
    for (let row = clamp(y1, height); row <= clamp(y2, height); row++) {
      for (let column = clamp(x1, width); column <= clamp(x2, width); column++) {
        const part = this.tile(column, row);
        if (part.complete && part.naturalWidth) context.drawImage(part, column * tile, row * tile);
      }
    }
  }

  tile(column, row) {
    const key = `${column}/${row}`;
    let part = this.tiles.get(key);
    if (part) {
      this.tiles.delete(key);  // to the end: the oldest go first
    } else {
      part = new Image();
      part.onload = () => this.draw();
      part.src = `/api/label/images/${this.image.id}/tiles/${key}.jpg`;
    }
    this.tiles.set(key, part);
    if (this.tiles.size > TILES) this.tiles.delete(this.tiles.keys().next().value);
    return part;
  }

  placeShapes() {
    const canvas = this.shapes.canvas;
    const now = {scale: this.scale, x: this.x, y: this.y};
    const same = this.drawn && this.drawn.scale === now.scale && this.drawn.x === now.x && this.drawn.y === now.y;
    const shapes = this.hidden ? [] : this.paint.shapes();
    const moving = performance.now() - (this.moved ?? 0) < REST;
    if (!this.stale && same) {
      canvas.style.transform = "";
    } else if (!this.stale && moving && shapes.length > FEW && this.drawn) {
      const k = now.scale / this.drawn.scale;
      canvas.style.transformOrigin = "0 0";
      canvas.style.transform = `translate(${now.x - this.drawn.x * k}px, ${now.y - this.drawn.y * k}px) scale(${k})`;
      clearTimeout(this.resting);
      this.resting = setTimeout(() => this.draw(), REST + 10);
    } else {
      canvas.style.transform = "";
      this.drawShapes(shapes);
      this.drawn = now;
      this.stale = false;
    }
  }

  /** Each shape: {path, box, colour, suggested, crowd, faint}. */
  drawShapes(shapes) {
    const context = this.shapes, unit = 1 / this.scale;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    this.enter(context);
    context.lineJoin = "round";
    const [x1, y1] = this.toImage(0, 0), [x2, y2] = this.toImage(this.width, this.height);
    for (const one of shapes) {
      const box = one.box;
      if (box[2] < x1 || box[3] < y1 || box[0] > x2 || box[1] > y2) continue;
      context.fillStyle = one.colour;
      context.globalAlpha = one.suggested ? 0.1 : one.crowd ? 0.12 : 0.3;
      context.fill(one.path, "evenodd");
      context.globalAlpha = 1;
      if (one.suggested) {
        context.setLineDash([5 * unit, 4 * unit]);
        context.lineWidth = 2.6 * unit;
        context.strokeStyle = "#000a";
        context.stroke(one.path);
        context.lineWidth = 1.4 * unit;
      } else {
        context.setLineDash(one.crowd ? [2 * unit, 3 * unit] : []);
        context.lineWidth = 1.7 * unit;
      }
      context.strokeStyle = one.colour;
      context.stroke(one.path);
    }
    context.setLineDash([]);
  }
}
