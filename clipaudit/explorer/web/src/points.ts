// Draws up to a million points: own WebGL2, or a plain canvas where there is none. No code is made at run time, so that the
// page's policy needs no `unsafe-eval`.

/** Where the map's square 0..1 x 0..1 lies on the canvas: its lower left corner and its side, in pixels of the page. */
export interface View { x: number; y: number; side: number }

export interface Points {
  /** x, y of each point, 0..65535, y upwards. */
  xy: Uint16Array;
  colours: Uint8Array;
}

/** Points that are drawn while the map moves; at rest all are. */
export const MOVING = 100_000;

export interface Renderer {
  load(points: Points): void;
  palette(colours: Uint8Array): void;
  draw(view: View, size: number, moving: boolean): void;
  close(): void;
  kind: "webgl" | "canvas";
}

/** Every n-th point, so that at most MOVING remain. */
export function thinned(points: Points): Points {
  const count = points.colours.length;
  const step = Math.ceil(count / MOVING);
  if (step <= 1) return points;
  const left = Math.floor(count / step);
  const xy = new Uint16Array(2 * left);
  const colours = new Uint8Array(left);
  for (let place = 0; place < left; place++) {
    xy[2 * place] = points.xy[2 * place * step]!;
    xy[2 * place + 1] = points.xy[2 * place * step + 1]!;
    colours[place] = points.colours[place * step]!;
  }
  return { xy, colours };
}

export function renderer(canvas: HTMLCanvasElement): Renderer {
  const gl = canvas.getContext("webgl2", { antialias: false, alpha: true, premultipliedAlpha: true, preserveDrawingBuffer: true });
  return gl ? webgl(canvas, gl) : plain(canvas);
}

const VERTEX = `#version 300 es
layout(location = 0) in vec2 place;
layout(location = 1) in float colour;
uniform vec2 scale;
uniform vec2 offset;
uniform float size;
uniform sampler2D palette;
flat out vec4 tint;
void main() {
  gl_Position = vec4(place * scale + offset, 0.0, 1.0);
  gl_PointSize = size;
  tint = texelFetch(palette, ivec2(int(colour), 0), 0);
}`;

const FRAGMENT = `#version 300 es
precision mediump float;
flat in vec4 tint;
out vec4 shown;
void main() {
  vec2 away = gl_PointCoord - 0.5;
  if (dot(away, away) > 0.25) discard;
  shown = vec4(tint.rgb * tint.a, tint.a);
}`;

function webgl(canvas: HTMLCanvasElement, gl: WebGL2RenderingContext): Renderer {
  const program = gl.createProgram()!;
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]] as const) {
    const shader = gl.createShader(kind)!;
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  gl.useProgram(program);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  const place = (name: string) => gl.getUniformLocation(program, name);
  const [scale, offset, size] = [place("scale"), place("offset"), place("size")];
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);

  const loaded = (points: Points) => {
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    for (const [location, data, width, type] of [[0, points.xy, 2, gl.UNSIGNED_SHORT], [1, points.colours, 1, gl.UNSIGNED_BYTE]] as const) {
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(location);
      gl.vertexAttribPointer(location, width, type, location === 0, 0, 0);
    }
    return { array, count: points.colours.length };
  };
  let all: ReturnType<typeof loaded> | null = null;
  let few: ReturnType<typeof loaded> | null = null;
  return {
    kind: "webgl",
    load(points) { all = loaded(points); few = loaded(thinned(points)); },
    palette(colours) { gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, colours.length / 4, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, colours); },
    draw(view, pixels, moving) {
      const drawn = moving ? few : all;
      const ratio = canvas.width / Math.max(1, canvas.clientWidth);
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT);
      if (!drawn) return;
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      gl.uniform2f(scale, (2 * view.side) / width, (2 * view.side) / height);
      gl.uniform2f(offset, (2 * view.x) / width - 1, (2 * view.y) / height - 1);
      gl.uniform1f(size, pixels * ratio);
      gl.bindVertexArray(drawn.array);
      gl.drawArrays(gl.POINTS, 0, drawn.count);
    },
    close() { gl.getExtension("WEBGL_lose_context")?.loseContext(); },
  };
}

function plain(canvas: HTMLCanvasElement): Renderer {
  const context = canvas.getContext("2d")!;
  let all: Points | null = null;
  let few: Points | null = null;
  let tints = new Uint32Array(256);
  return {
    kind: "canvas",
    load(points) { all = points; few = thinned(points); },
    palette(colours) { tints = new Uint32Array(colours.slice().buffer); },
    draw(view, pixels, moving) {
      const points = moving ? few : all;
      const [width, height] = [canvas.width, canvas.height];
      const picture = context.createImageData(width, height);
      const out = new Uint32Array(picture.data.buffer);
      if (points) {
        const ratio = width / Math.max(1, canvas.clientWidth);
        const dot = Math.max(1, Math.round(pixels * ratio));
        const scale = (view.side * ratio) / 65535;
        for (let point = 0; point < points.colours.length; point++) {
          const left = Math.round(view.x * ratio + points.xy[2 * point]! * scale - dot / 2);
          const top = Math.round(height - (view.y * ratio + points.xy[2 * point + 1]! * scale) - dot / 2);
          if (left < 0 || top < 0 || left + dot > width || top + dot > height) continue;
          const tint = tints[points.colours[point]!]!;
          for (let row = 0; row < dot; row++) out.fill(tint, (top + row) * width + left, (top + row) * width + left + dot);
        }
      }
      context.putImageData(picture, 0, 0);
    },
    close() {},
  };
}

/** The point nearest to a place, within a distance in pixels; -1 for none. */
export function nearest(points: Points, view: View, x: number, y: number, within: number): number {
  const scale = 65535 / view.side;
  const [px, py, far] = [(x - view.x) * scale, (y - view.y) * scale, within * scale];
  let best = far * far;
  let found = -1;
  for (let point = 0; point < points.colours.length; point++) {
    const dx = points.xy[2 * point]! - px;
    if (dx > far || dx < -far || points.colours[point] === 255) continue;
    const dy = points.xy[2 * point + 1]! - py;
    const distance = dx * dx + dy * dy;
    if (distance < best) { best = distance; found = point; }
  }
  return found;
}
