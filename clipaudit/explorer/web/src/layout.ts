// Where the tiles of the wall lie: sections of whole rows, found by height, so that a million tiles cost as much as ten.
import type { Group } from "./types";

export interface Section { group: Group | null; start: number; count: number; top: number; height: number }
export interface Layout { columns: number; tile: number; row: number; height: number; sections: Section[] }

export const GAP = 8;
export const CAPTION = 24;
export const HEADER = 44;

export function layout(width: number, size: number, matched: number, groups: Group[]): Layout {
  const columns = Math.max(2, Math.floor((width + GAP) / (size + GAP)));
  const tile = (width - GAP * (columns - 1)) / columns;
  const row = tile + CAPTION + GAP;
  const sections: Section[] = [];
  let top = 0;
  const parts = groups.length ? groups : [{ value: null, name: null, start: 0, count: matched }];
  for (const part of parts) {
    const height = (groups.length ? HEADER : 0) + Math.ceil(part.count / columns) * row;
    sections.push({ group: groups.length ? part : null, start: part.start, count: part.count, top, height });
    top += height;
  }
  return { columns, tile, row, height: top, sections };
}

export interface Placed { position: number; x: number; y: number }
export interface Visible { tiles: Placed[]; headers: { section: Section; y: number }[] }

/** The tiles and headers between two heights. */
export function visible(plan: Layout, from: number, to: number): Visible {
  const tiles: Placed[] = [];
  const headers: Visible["headers"] = [];
  let low = 0;
  let high = plan.sections.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    const section = plan.sections[middle]!;
    if (section.top + section.height < from) low = middle + 1;
    else high = middle;
  }
  for (let place = low; place < plan.sections.length; place++) {
    const section = plan.sections[place]!;
    if (section.top > to) break;
    const head = section.group ? HEADER : 0;
    if (head) headers.push({ section, y: section.top });
    const first = Math.max(0, Math.floor((from - section.top - head) / plan.row));
    const last = Math.min(Math.ceil(section.count / plan.columns), Math.ceil((to - section.top - head) / plan.row));
    for (let line = first; line < last; line++) {
      for (let column = 0; column < plan.columns; column++) {
        const within = line * plan.columns + column;
        if (within >= section.count) break;
        const y = section.top + head + line * plan.row;
        tiles.push({ position: section.start + within, x: column * (plan.tile + GAP), y });
      }
    }
  }
  return { tiles, headers };
}

export function placeOf(plan: Layout, position: number): { y: number; section: Section } | null {
  const section = plan.sections.find((each) => position >= each.start && position < each.start + each.count);
  if (!section) return null;
  const line = Math.floor((position - section.start) / plan.columns);
  return { y: section.top + (section.group ? HEADER : 0) + line * plan.row, section };
}

/** The position that an arrow key leads to. */
export function step(plan: Layout, position: number, key: string, matched: number): number {
  const last = matched - 1;
  if (key === "ArrowRight") return Math.min(last, position + 1);
  if (key === "ArrowLeft") return Math.max(0, position - 1);
  if (key === "Home") return 0;
  if (key === "End") return last;
  const lines = key === "PageDown" || key === "PageUp" ? 4 : 1;
  const down = key === "ArrowDown" || key === "PageDown";
  return Math.max(0, Math.min(last, position + (down ? 1 : -1) * lines * plan.columns));
}
