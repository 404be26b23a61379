// Asks the server; notices when it is gone and when it is back.
import { useEffect, useState } from "preact/hooks";
import type { TagFacts } from "./types";

export const API = "/api/v1";
const TOKEN = "clipaudit-token";

/** The session's token comes behind the # of the address that the command printed, and does not stay there. */
export function takeToken(): void {
  const match = /^#token=([\w-]+)$/.exec(location.hash);
  if (!match) return;
  sessionStorage.setItem(TOKEN, match[1]!);
  history.replaceState(null, "", location.pathname + location.search);
}

/** Whether this window may write. */
export function hasToken(): boolean {
  return sessionStorage.getItem(TOKEN) !== null;
}

export class Refused extends Error {}

type Listener = () => void;

class Signal<T> {
  private listeners = new Set<Listener>();
  constructor(public value: T) {}
  set(value: T): void {
    if (value === this.value) return;
    this.value = value;
    for (const listener of this.listeners) listener();
  }
  use(): T {
    const [, again] = useState(0);
    useEffect(() => {
      const listener = () => again((count) => count + 1);
      this.listeners.add(listener);
      return () => void this.listeners.delete(listener);
    }, []);
    return this.value;
  }
}

/** Whether the last request found no server. */
export const lost = new Signal(false);
/** Grows whenever what the server knows may have changed: tags, a restart. */
export const revision = new Signal(0);
/** Shards that were committed since the server was started. */
export const newShards = new Signal(0);
/** A short message at the foot of the page, with what undoes it. */
export const toast = new Signal<{ text: string; undo?: () => void } | null>(null);

export async function ask<T>(path: string, options: RequestInit = {}): Promise<T> {
  let answer: Response;
  try {
    answer = await fetch(API + path, options);
  } catch (error) {
    if (!(error instanceof DOMException && error.name === "AbortError")) lost.set(true);
    throw error;
  }
  lost.set(false);
  const body = await answer.json().catch(() => ({ error: `The server answers ${answer.status}.` }));
  // the token is of a session that is over: this window may not write any more, and says so
  if (answer.status === 403 && options.method === "POST" && hasToken()) {
    sessionStorage.removeItem(TOKEN);
    changed();
  }
  if (!answer.ok) throw new Refused(body.error ?? `The server answers ${answer.status}.`);
  return body as T;
}

export function post<T>(path: string, body: unknown): Promise<T> {
  const headers = { "content-type": "application/json", "x-clipaudit-token": sessionStorage.getItem(TOKEN) ?? "" };
  return ask<T>(path, { method: "POST", headers, body: JSON.stringify(body) });
}

export async function upload(file: Blob): Promise<string> {
  const headers = { "content-type": file.type || "application/octet-stream" };
  return (await ask<{ image: string }>("/pictures", { method: "POST", headers, body: file })).image;
}

/** Everything that a change of tags shows is asked for again. */
export function changed(facts?: TagFacts): void {
  if (facts) seenTags = facts.version;
  revision.set(revision.value + 1);
}

let seenTags = -1;
let seenRevision = 0;

export async function watch(): Promise<void> {
  try {
    const wasLost = lost.value;
    const state = await ask<{ tags: number; new_shards: number; revision: number }>("/state");
    newShards.set(state.new_shards);
    const others = seenTags >= 0 && (state.tags !== seenTags || state.revision !== seenRevision);
    seenTags = state.tags;
    seenRevision = state.revision;
    if (wasLost || others) changed();
  } catch {
    // `ask` has noted it
  }
  setTimeout(watch, lost.value ? 1500 : 5000);
}

export interface Loaded<T> { value: T | null; error: string | null; loading: boolean }

/** What a path answers, asked again when the path or the revision changes. The last answer stays until the next one. */
export function useAnswer<T>(path: string | null): Loaded<T> {
  const count = revision.use();
  const [loaded, set] = useState<Loaded<T> & { path: string | null }>({ value: null, error: null, loading: true, path });
  useEffect(() => {
    if (path === null) return;
    const stop = new AbortController();
    set((before) => ({ ...before, loading: true }));
    ask<T>(path, { signal: stop.signal }).then(
      (value) => set({ value, error: null, loading: false, path }),
      (error) => {
        if (stop.signal.aborted) return;
        const refused = error instanceof Refused;
        set((before) => ({ value: refused ? null : before.value, error: refused ? error.message : null, loading: false, path }));
      },
    );
    return () => stop.abort();
  }, [path, count]);
  return path === loaded.path || loaded.loading ? loaded : { ...loaded, loading: true };
}
