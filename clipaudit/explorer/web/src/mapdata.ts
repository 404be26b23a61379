// The map's points as the server sends them, its colours, and regions as the address holds them.
import { API, lost, Refused } from "./api";
import type { Points } from "./points";

export interface MapHeader {
  points: number;
  rows: number;
  space: string;
  method: string;
  sampled: boolean;
  shares: [number, number] | null;
  side: number;
  colour: string | null;
  kind: "none" | "values" | "numbers";
  names: string[];
  other?: number;
  low: string | null;
  high: string | null;
}

export interface MapData extends Points { header: MapHeader; numbers: Uint32Array | null }

export async function fetchMap(parameters: string, signal: AbortSignal): Promise<MapData> {
  let answer: Response;
  try {
    answer = await fetch(`${API}/map/points?${parameters}`, { signal });
  } catch (error) {
    if (!signal.aborted) lost.set(true);
    throw error;
  }
  lost.set(false);
  if (!answer.ok) throw new Refused((await answer.json().catch(() => ({}))).error ?? `The server answers ${answer.status}.`);
  const data = await answer.arrayBuffer();
  const size = new DataView(data).getUint32(4, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 8, size))) as MapHeader;
  const count = header.points;
  const start = 8 + size;
  const after = start + 5 * count;
  const rest = data.byteLength > after ? after + ((4 - (count % 4)) % 4) : 0;
  return {
    header,
    // the machines that browsers run on are little-endian, as the answer is
    xy: new Uint16Array(data, start, 2 * count),
    colours: new Uint8Array(data, start + 4 * count, count),
    numbers: rest ? new Uint32Array(data.slice(rest)) : null,
  };
}

/** Nine colours that people with any colour vision tell apart (Tol's muted set), and grey for all others. */
const VALUES = ["#332288", "#ddcc77", "#cc6677", "#117733", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499"];
const DARK = ["#8f86ff", "#ddcc77", "#ff8f9c", "#4fbf74", "#88ccee", "#e06fa0", "#5fd3c0", "#c9c95a", "#e07fdc"];
/** Three colours of the scale of numbers, low to high (after Cividis). */
const SCALE: [number, number, number][] = [[0, 60, 130], [140, 140, 130], [250, 220, 60]];

export const tint = (code: number, dark: boolean) => (code >= 1 && code <= 9 ? (dark ? DARK : VALUES)[code - 1]! : dark ? "#6b7380" : "#a5acb6");
export const shade = (share: number) => {
  const place = Math.min(0.9999, Math.max(0, share)) * 2;
  const [low, high] = [SCALE[Math.floor(place)]!, SCALE[Math.floor(place) + 1]!];
  const part = place - Math.floor(place);
  return low.map((value, channel) => Math.round(value + part * (high[channel]! - value))) as [number, number, number];
};

/** RGBA of the 256 colours. */
export function palette(kind: MapHeader["kind"], count: number, dark: boolean): Uint8Array {
  const colours = new Uint8Array(1024);
  const opacity = count > 300_000 ? 120 : count > 30_000 ? 170 : 220;
  for (let code = 0; code < 256; code++) {
    const hex = kind === "none" && code === 1 ? (dark ? "#8ab4f8" : "#1f5fbf") : tint(code, dark);
    const rgb = kind === "numbers" && code >= 1 && code <= 64 ? shade((code - 1) / 63) : [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    colours.set([...rgb, code === 255 ? 26 : code === 0 ? 90 : opacity], 4 * code);
  }
  return colours;
}

export type Corner = [number, number];

/** Corners at least `apart` apart, at most `most` of them. */
export function simplified(line: Corner[], apart: number, most: number): Corner[] {
  const left: Corner[] = [];
  for (const corner of line) {
    const last = left.at(-1);
    if (!last || Math.hypot(corner[0] - last[0], corner[1] - last[1]) >= apart) left.push(corner);
  }
  return left.length <= most ? left : simplified(left, apart * 1.5, most);
}

export function regionText(space: string, method: string, corners: Corner[]): string {
  const whole = (value: number) => Math.min(65535, Math.max(0, Math.round(value)));
  return `${space}:${method}:${corners.map(([x, y]) => `${whole(x)},${whole(y)}`).join(";")}`;
}

export function cornersOf(region: string, space: string, method: string): Corner[] {
  const [of, by, list] = region.split(":");
  if (of !== space || by !== method || !list) return [];
  return list.split(";").map((pair) => pair.split(",").map(Number) as Corner);
}
