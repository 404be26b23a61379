// The whole state of the page stands in its address: back and forward work, and an address can be shared.
import { useEffect, useState } from "preact/hooks";

export type Screen = "findings" | "images" | "heads" | "search" | "map" | "whatif" | "basket" | "mistakes" | "label";
export const SCREENS: Screen[] = ["findings", "mistakes", "images", "heads", "search", "map", "whatif", "basket", "label"];

export interface State {
  screen: Screen;
  where: string;
  sort: string;
  group: string;
  /** The question: texts and samples as the options of `clipaudit query` take them, with `=WEIGHT`. */
  text: string[];
  minus: string[];
  key: string[];
  image: string[];
  head: string[];
  /** The finding, the head and the image (SHARD/INDEX) that the left side is about. */
  finding: string;
  focus: string;
  open: string;
  size: string;
  /** The cue that is labelled. */
  study: string;
  /** What if: heads that are taken out, the text along which alone, the column of the groups, and on which images. */
  out: string[];
  /** The heads by which the question is asked a second time, side by side; `embedding` for everything. */
  beside: string[];
  /** Where it is: the texts that are looked for in the open image, and the heads through which. */
  heat: string[];
  through: string[];
  /** What the open image's bars add up for: a text, or a class and what it is compared with, `none` for nothing; whether
   * the average image's are left in; and the head in which its neighbours are alike. */
  scored: string;
  toward: string;
  against: string;
  whole: string;
  alike: string;
  along: string;
  by: string;
  among: string;
  /** The map: the head it is of, its layout and colours; and a region of it, which filters the wall. */
  space: string;
  method: string;
  colour: string;
  inside: string;
}

const QUESTION = ["text", "minus", "key", "image", "head"] as const;
const LISTS = [...QUESTION, "out", "beside", "heat", "through"] as const;
const WORDS = ["where", "sort", "group", "finding", "focus", "open", "size", "study", "along", "by", "among", "space", "method", "colour", "inside", "scored", "toward", "against", "whole", "alike"] as const;

export function parse(search: string): State {
  const given = new URLSearchParams(search);
  const screen = given.get("screen") as Screen | null;
  const state = { screen: screen && SCREENS.includes(screen) ? screen : "findings" } as State;
  for (const name of WORDS) state[name] = given.get(name) ?? "";
  for (const name of LISTS) state[name] = given.getAll(name);
  return state;
}

export function write(state: State): string {
  const given = new URLSearchParams();
  given.set("screen", state.screen);
  for (const name of WORDS) if (state[name]) given.set(name, state[name]);
  for (const name of LISTS) for (const value of state[name]) given.append(name, value);
  return `?${given}`;
}

/** The part of the state that the wall is asked with, as the parameters of /api/v1/rows. */
export function question(state: State): URLSearchParams {
  const given = new URLSearchParams();
  if (state.where.trim()) given.append("where", state.where);
  for (const name of ["sort", "group", "inside"] as const) if (state[name]) given.set(name, state[name]);
  for (const name of QUESTION) for (const value of state[name]) given.append(name, value);
  return given;
}

export const NO_QUESTION = { text: [], minus: [], key: [], image: [], head: [], beside: [] };

let current = parse(location.search);
const listeners = new Set<() => void>();

export function get(): State {
  return current;
}

/** Change parts of the state; `replace` leaves no step to go back to. */
export function go(change: Partial<State>, replace = false): void {
  const next = { ...current, ...change };
  const address = write(next);
  if (address === write(current)) return;
  current = next;
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  for (const listener of listeners) listener();
}

addEventListener("popstate", () => {
  current = parse(location.search);
  for (const listener of listeners) listener();
});

export function useAddress(): State {
  const [state, set] = useState(current);
  useEffect(() => {
    const listener = () => set(current);
    listeners.add(listener);
    listener();
    return () => void listeners.delete(listener);
  }, []);
  return state;
}

/** A filter with one more condition. */
export function also(where: string, condition: string): string {
  const trimmed = where.trim();
  if (!trimmed) return condition;
  return `${conditions(trimmed).length === 1 && /\sor\s/i.test(trimmed) ? `(${trimmed})` : trimmed} and ${condition}`;
}

/** The conditions of a filter that all must hold; the whole filter as one where it says `or`. */
export function conditions(where: string): string[] {
  const parts: string[] = [];
  let part = "";
  let depth = 0;
  let alternatives = false;
  for (const token of where.match(/'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|[()]|\s+|[^\s'"`()]+/g) ?? []) {
    depth += token === "(" ? 1 : token === ")" ? -1 : 0;
    if (depth === 0 && /^or$/i.test(token)) alternatives = true;
    if (depth === 0 && /^and$/i.test(token)) { parts.push(part.trim()); part = ""; } else part += token;
  }
  parts.push(part.trim());
  return alternatives ? [where.trim()] : parts.filter(Boolean);
}

/** Whether a filter has a condition, among others that must hold too. */
export const holds = (where: string, condition: string) => conditions(where).includes(condition);

/** A filter with a condition, or without it where it has it. */
export function turned(where: string, condition: string): string {
  const parts = conditions(where);
  return parts.includes(condition) ? parts.filter((each) => each !== condition).join(" and ") : also(where, condition);
}

/** `key = 'a'` with a text's quotes doubled, a number as it is. */
export function equals(column: { name: string; short: string; kind: string }, value: string): string {
  const name = /^[A-Za-z_][\w.-]*$/.test(column.short) ? column.short : `\`${column.short}\``;
  return `${name} = ${column.kind === "text" ? quoted(value) : value}`;
}

/** A text as it stands in a filter: plain words without quotes. */
export function quoted(text: string): string {
  const plain = /^[A-Za-z_][\w.-]*$/.test(text) && !/^(and|or|not|in|is|null|like)$/i.test(text);
  return plain ? text : `'${text.replaceAll("'", "''")}'`;
}
