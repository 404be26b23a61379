// The images that are chosen on the wall, for all parts of the page.
import { useEffect, useState } from "preact/hooks";
import type { Row } from "./types";

const chosen = new Map<string, Row>();
const listeners = new Set<() => void>();

export const idOf = (row: { shard: number; index: number }) => `${row.shard}/${row.index}`;

function tell(): void {
  for (const listener of listeners) listener();
}

export function toggle(row: Row): void {
  if (!chosen.delete(idOf(row))) chosen.set(idOf(row), row);
  tell();
}

export function choose(rows: Row[]): void {
  for (const row of rows) chosen.set(idOf(row), row);
  tell();
}

export function clear(): void {
  if (!chosen.size) return;
  chosen.clear();
  tell();
}

export function useSelection(): Map<string, Row> {
  const [, again] = useState(0);
  useEffect(() => {
    const listener = () => again((count) => count + 1);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  return chosen;
}
