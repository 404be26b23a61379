// Numbers and small pieces that several screens show alike.
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { API, revision } from "./api";
import type { Estimate, Row } from "./types";

/** Whose answers they are. */
export const WHO: Record<string, string> = { clip: "CLIP, zero-shot", rehearsed: "A model trained here", given: "Given predictions" };

const NUMBER = new Intl.NumberFormat("en");
export const count = (value: number) => NUMBER.format(value);
/** A number of a column with four digits at most. */
export const short = (text: string) => (Number.isInteger(Number(text)) ? NUMBER.format(Number(text)) : String(Number(Number(text).toPrecision(4))));
export const images = (value: number) => `${count(value)} ${value === 1 ? "image" : "images"}`;
export const percent = (value: number | null | undefined, digits = 0) =>
  value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)} %`;
export const signed = (value: number, digits: number) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
export const points = (value: number | null | undefined) => (value === null || value === undefined ? "–" : signed(100 * value, 1));

export function interval(estimate: Estimate | null, kind: "percent" | "points"): string {
  if (!estimate || estimate.low === null || estimate.high === null) return "";
  const [low, high] = [estimate.low, estimate.high];
  return kind === "percent" ? `${(100 * low).toFixed(0)}–${(100 * high).toFixed(0)}` : `${points(low)} to ${points(high)}`;
}

let version = "";
/** Pictures are cached by the browser; in their address stands which run they are of, in which state. */
export function pictureVersion(pictures: string): void {
  version = pictures;
}

export const thumbnail = (row: { shard: number; index: number }, size: number) =>
  `${API}/thumbnails/${row.shard}/${row.index}?size=${Math.min(384, Math.max(16, Math.round(size)))}&v=${version}`;

export const original = (row: { shard: number; index: number }) => `${API}/images/${row.shard}/${row.index}?v=${version}`;

/** An image of the run; where it cannot be shown, its place says so. hold: not asked for while it is not there yet, for
 * a browser asks a few things at a time, and what is about to leave the page must not stand before what replaces it. */
export function Picture({ row, size, src, alt = "", hold = false }: { row: { shard: number; index: number; key: string }; size: number; src?: string; alt?: string; hold?: boolean }) {
  const address = src ?? thumbnail(row, size);
  // asked again when the server was away, or anything else has changed
  const attempt = `${address} ${revision.use()}`;
  const [failed, fail] = useState("");
  const [loaded, load] = useState("");
  if (failed === attempt) return <span class="no-picture" aria-hidden="true">no picture</span>;
  const asked = hold && loaded !== address ? undefined : address;
  return <img src={asked} alt={alt} decoding="async" draggable={false} onLoad={() => load(address)} onError={() => asked && fail(attempt)} />;
}

export const title = (row: Row) =>
  [row.class_name ?? row.label ?? "", row.key, row.caption ?? ""].filter(Boolean).join(" · ");

/** A way forward where something is not there: what is missing, and the command that makes it. */
export function Missing({ children, command }: { children: ComponentChildren; command?: string | undefined }) {
  return (
    <div class="missing" role="note">
      <p>{children}</p>
      {command && <Copyable text={command} name="command" />}
    </div>
  );
}

export function Copyable({ text, name }: { text: string; name: string }) {
  const [done, set] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text).catch(() => undefined);
    set(true);
    setTimeout(() => set(false), 1500);
  };
  return (
    <div class="copyable">
      <pre tabIndex={0}>{text}</pre>
      <button type="button" class="quiet" onClick={copy} aria-label={`Copy the ${name}`}>{done ? "Copied" : "Copy"}</button>
    </div>
  );
}

export function Loading({ what }: { what: string }) {
  return <p class="loading" role="status"><span class="spinner" aria-hidden="true" />{what}</p>;
}

export function Problem({ error }: { error: string }) {
  return <p class="problem" role="alert">{withCode(error)}</p>;
}

/** A sentence of the server's, whose commands stand between backquotes, as such. */
export function withCode(text: string): ComponentChildren {
  const parts = text.split("`");
  // an odd number of backquotes belongs to the text itself, such as a name in a filter
  return parts.length % 2 === 0 ? text : parts.map((part, place) => (place % 2 ? <code key={place}>{part}</code> : part));
}
