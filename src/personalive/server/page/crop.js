/** The crop editor: a square on the picture, by mouse, touch and keys. A crop is [x, y, side] in pixels of the picture. */

const SMALLEST = 32;

/** The crop moved and sized so that it lies in the picture. */
export function constrain([x, y, side], width, height) {
  const whole = Math.min(width, height);
  const fitting = Math.round(Math.min(whole, Math.max(Math.min(SMALLEST, whole), side)));
  return [
    Math.round(Math.min(width - fitting, Math.max(0, x))),
    Math.round(Math.min(height - fitting, Math.max(0, y))),
    fitting,
  ];
}

/** The crop with another side and the same middle. */
export function resized([x, y, side], next, width, height) {
  const [, , fitting] = constrain([x, y, next], width, height);
  return constrain([x + (side - fitting) / 2, y + (side - fitting) / 2, fitting], width, height);
}

export class CropEditor {
  #dialog; #image; #square; #handle; #advice; #position; #use; #cancel;
  #crop = [0, 0, 1];
  #width = 1;
  #height = 1;
  #drag = null;

  /** The dialog's elements, by role. */
  constructor({ dialog, image, square, handle, advice, position, use, cancel }) {
    [this.#dialog, this.#image, this.#square, this.#handle] = [dialog, image, square, handle];
    [this.#advice, this.#position, this.#use, this.#cancel] = [advice, position, use, cancel];
    square.addEventListener("pointerdown", (event) => this.#grab(event));
    square.addEventListener("pointermove", (event) => this.#pull(event));
    for (const end of ["pointerup", "pointercancel"]) square.addEventListener(end, () => this.#release());
    square.addEventListener("keydown", (event) => this.#key(event));
    square.parentElement.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    image.addEventListener("load", () => this.#draw());
    window.addEventListener("resize", () => this.#draw());
  }

  /** Let the user place the square. Gives the crop, or null when they cancel. */
  edit(address, crop, width, height, advice) {
    [this.#crop, this.#width, this.#height] = [crop, width, height];
    this.#advice.textContent = advice;
    this.#image.src = address;
    this.#dialog.returnValue = "";
    this.#dialog.showModal();
    this.#square.focus();
    this.#draw();
    return new Promise((resolve) => {
      this.#use.onclick = () => this.#dialog.close("use");
      this.#cancel.onclick = () => this.#dialog.close("");
      this.#dialog.onclose = () => resolve(this.#dialog.returnValue === "use" ? this.#crop : null);
    });
  }

  get #scale() {
    return this.#image.clientWidth / this.#width;
  }

  #place(crop) {
    this.#crop = constrain(crop, this.#width, this.#height);
    this.#draw();
  }

  #draw() {
    const [x, y, side] = this.#crop;
    const scale = this.#scale;
    Object.assign(this.#square.style, {
      left: `${x * scale}px`, top: `${y * scale}px`, width: `${side * scale}px`, height: `${side * scale}px`,
    });
  }

  #grab(event) {
    event.preventDefault();
    this.#square.focus();
    this.#square.setPointerCapture(event.pointerId);
    const sizing = event.target === this.#handle;
    this.#drag = { sizing, fromX: event.clientX, fromY: event.clientY, crop: this.#crop };
  }

  #pull(event) {
    if (this.#drag === null) return;
    const [x, y, side] = this.#drag.crop;
    const right = (event.clientX - this.#drag.fromX) / this.#scale;
    const down = (event.clientY - this.#drag.fromY) / this.#scale;
    if (!this.#drag.sizing) return this.#place([x + right, y + down, side]);
    const most = Math.min(this.#width - x, this.#height - y); // the corner held still stays where it is
    return this.#place([x, y, Math.min(most, side + Math.max(right, down))]);
  }

  #release() {
    if (this.#drag !== null) this.#say();
    this.#drag = null;
  }

  #key(event) {
    const [x, y, side] = this.#crop;
    const step = Math.max(1, Math.round(side / 50)) * (event.shiftKey ? 5 : 1);
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key in moves) this.#place([x + moves[event.key][0], y + moves[event.key][1], side]);
    else if (["+", "="].includes(event.key)) this.#place(this.#resized(side + 2 * step));
    else if (["-", "_"].includes(event.key)) this.#place(this.#resized(side - 2 * step));
    else if (event.key === "Enter") return this.#dialog.close("use");
    else return undefined;
    event.preventDefault();
    return this.#say();
  }

  #wheel(event) {
    event.preventDefault();
    this.#place(this.#resized(this.#crop[2] * (event.deltaY < 0 ? 1.05 : 0.95)));
  }

  #resized(side) {
    return resized(this.#crop, side, this.#width, this.#height);
  }

  #say() {
    const [x, y, side] = this.#crop;
    this.#position.textContent =
      `${side} wide, ${x} from the left, ${y} from the top, of ${this.#width} by ${this.#height}`;
  }
}
