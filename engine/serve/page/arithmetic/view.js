// @ts-check
/** How the picture lies on the screen: turned, enlarged, moved. */

/** @typedef {{x: number, y: number}} Point */

export class View {
  constructor() {
    this.scale = 1;
    this.angle = 0;
    this.x = 0;
    this.y = 0;
  }

  /** @param {Point} point of the picture @returns {Point} of the screen */
  toScreen({ x, y }) {
    const [cos, sin] = [Math.cos(this.angle) * this.scale, Math.sin(this.angle) * this.scale];
    return { x: this.x + cos * x - sin * y, y: this.y + sin * x + cos * y };
  }

  /** @param {Point} point of the screen @returns {Point} of the picture */
  toPicture({ x, y }) {
    const [cos, sin] = [Math.cos(this.angle) / this.scale, Math.sin(this.angle) / this.scale];
    const [dx, dy] = [x - this.x, y - this.y];
    return { x: cos * dx + sin * dy, y: cos * dy - sin * dx };
  }

  /**
   * Enlarge and turn about a point of the screen, which stays where it is.
   * @param {Point} about
   * @param {number} factor
   * @param {number} [turn] radians
   */
  change(about, factor, turn = 0) {
    const held = this.toPicture(about);
    this.scale = Math.min(64, Math.max(0.01, this.scale * factor));
    this.angle = Math.abs(this.angle + turn) < 1e-9 ? 0 : this.angle + turn;
    const now = this.toScreen(held);
    this.move(about.x - now.x, about.y - now.y);
  }

  /** @param {number} dx @param {number} dy px of the screen */
  move(dx, dy) {
    this.x += dx;
    this.y += dy;
  }

  /**
   * The whole picture, upright, in the middle; where its canvas grows, all of that.
   * @param {{width: number, height: number}} picture
   * @param {{width: number, height: number}} screen
   * @param {readonly number[]} [grown] px to the left, top, right and bottom
   * @param {number} [margin] px
   */
  fit(picture, screen, [left, top, right, bottom] = [0, 0, 0, 0], margin = 24) {
    const [width, height] = [picture.width + left + right, picture.height + top + bottom];
    const room = { width: screen.width - 2 * margin, height: screen.height - 2 * margin };
    this.angle = 0;
    this.scale = Math.max(0.01, Math.min(room.width / width, room.height / height, 16));
    this.x = (screen.width - width * this.scale) / 2 + left * this.scale;
    this.y = (screen.height - height * this.scale) / 2 + top * this.scale;
  }

  /** @returns {string} as CSS */
  get css() {
    const [cos, sin] = [Math.cos(this.angle) * this.scale, Math.sin(this.angle) * this.scale];
    return `matrix(${cos}, ${sin}, ${-sin}, ${cos}, ${this.x}, ${this.y})`;
  }
}
